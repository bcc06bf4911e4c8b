"""What a study shows: drawn at random, mixed, without names; and which studies are refused."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.studied import SITES, WIDTH, studied, two_suites
from saeworks.cost.progress import Progress
from saeworks.errors import UserError
from saeworks.people.config import HumanStudyConfig
from saeworks.people.study import as_shown, locate, make_study, read_study
from saeworks.results.latents import size_of_latents


def test_every_suite_and_site_has_as_many_latents_in_every_block(tmp_path: Path) -> None:
    _, study, folder = two_suites(tmp_path, latents=16)
    assert study.each == 8 and len(study.latents) == 32
    places = [(drawn.suite, drawn.site) for drawn in study.latents]
    for start in range(0, 32, 4):
        assert set(places[start : start + 4]) == {(s, site) for s in (0, 1) for site in SITES}
    assert len({places[start] for start in range(0, 32, 4)}) > 1
    assert len({(d.suite, d.site, d.latent) for d in study.latents}) == 32
    assert read_study(folder) == study


def test_how_far_the_reading_is_can_be_told(tmp_path: Path, monkeypatch) -> None:
    added: list[int] = []
    monkeypatch.setattr(Progress, "add", lambda self, more: added.append(more))
    path = studied(tmp_path / "suite")
    make_study([path], tmp_path / "study", HumanStudyConfig(latents=4))
    assert sum(added) == size_of_latents(path) > 10_000


def test_every_latent_is_as_likely_to_be_drawn(tmp_path: Path) -> None:
    path, drawn = studied(tmp_path / "suite", latents=12), Counter[int]()
    for seed in range(60):
        config = HumanStudyConfig(latents=3, seed=seed, site=(SITES[0],))
        study = make_study([path], tmp_path / f"study-{seed}", config)
        drawn.update(latent.latent for latent in study.latents)
    assert sum(drawn.values()) == 180 and len(drawn) == 12
    assert all(4 < count < 30 for count in drawn.values())


def test_the_page_is_told_neither_whose_a_latent_is_nor_its_scale(tmp_path: Path) -> None:
    _, study, _ = two_suites(tmp_path)
    shown = as_shown(study, 0)
    assert set(shown) == {"place", "contexts", "promoted", "suppressed"}
    assert set(shown["contexts"][0]) == {"kind", "tokens", "activations", "peak"}
    assert max(shown["contexts"][0]["activations"]) == 1.0
    assert shown["promoted"] == [" up↵"]
    dead = replace(study.latents[0], largest=0.0, promoted=[])
    without = replace(study, latents=[dead, *study.latents[1:]])
    assert set(as_shown(without, 0)) == set(as_shown(without, 1)) == {"place", "contexts"}


def test_the_same_command_goes_on_with_a_study_and_another_does_not(tmp_path: Path) -> None:
    paths, study, folder = two_suites(tmp_path, latents=8)
    assert make_study(paths, folder, HumanStudyConfig(latents=8)) == study
    for config in (HumanStudyConfig(latents=10), HumanStudyConfig(latents=8, seed=1)):
        with pytest.raises(UserError, match="was made with --latents 8 --seed 0"):
            make_study(paths, folder, config)
    other = studied(tmp_path / "third", seed=2)
    with pytest.raises(UserError, match="is of other suites"):
        make_study([paths[0], other], folder, HumanStudyConfig(latents=8))


def test_a_suite_without_latents_is_told_the_command_that_measures_them(tmp_path: Path) -> None:
    path = studied(tmp_path / "suite")
    (path / "results" / "latents.json").unlink()
    with pytest.raises(UserError, match=r"has no results/latents.json.* --latents 64`$"):
        make_study([path], tmp_path / "study", HumanStudyConfig())
    assert not (tmp_path / "study").exists()


def test_too_few_latents(tmp_path: Path) -> None:
    path = studied(tmp_path / "suite", latents=20)
    with pytest.raises(UserError, match=r"has 20 latents of layers.0 and 48 are needed; run"):
        make_study([path], tmp_path / "study", HumanStudyConfig())
    dead = studied(tmp_path / "dead", latents=20, live=20)
    with pytest.raises(UserError, match=r"only 20 fire there: lower --latents"):
        make_study([dead], tmp_path / "study", HumanStudyConfig())
    with pytest.raises(UserError, match="latents = 0: must be at least 1"):
        HumanStudyConfig(latents=0)
    with pytest.raises(UserError, match="seed = -1"):
        HumanStudyConfig(seed=-1)


def test_suites_that_cannot_be_compared(tmp_path: Path) -> None:
    path = studied(tmp_path / "suite")
    elsewhere = studied(tmp_path / "elsewhere", sites=("layers.5",), seed=1)
    config = HumanStudyConfig(latents=4)
    with pytest.raises(UserError, match="have no site in common"):
        make_study([path, elsewhere], tmp_path / "study", config)
    with pytest.raises(UserError, match=r"has no site 'layers.7'; it has layers.0, layers.1"):
        make_study([path], tmp_path / "study", HumanStudyConfig(site=("layers.7",)))
    with pytest.raises(UserError, match="the same suite is named twice"):
        make_study([path, path], tmp_path / "study", config)
    with pytest.raises(UserError, match=r"lies in .*suite, a run or suite"):
        make_study([path], path / "study", config)


def test_results_of_another_suite_or_cut_off_are_refused(tmp_path: Path) -> None:
    first, second = studied(tmp_path / "a"), studied(tmp_path / "b", seed=1)
    shutil.copy(first / "results" / "latents.json", second / "results" / "latents.json")
    with pytest.raises(UserError, match="is of another suite"):
        make_study([second], tmp_path / "study", HumanStudyConfig(latents=4))
    file = first / "results" / "latents.json"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"latents\.json"):
        make_study([first], tmp_path / "study", HumanStudyConfig(latents=4))


def test_a_study_whose_file_has_changed_is_refused(tmp_path: Path) -> None:
    _, _, folder = two_suites(tmp_path)
    file = folder / "study.json"
    file.write_text(file.read_text().replace('"suite": 0', '"suite": 1', 1))
    with pytest.raises(UserError, match="is corrupt"):
        read_study(folder)
    data = json.loads(file.read_text()) | {"suites": []}
    del data["seal"]
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="which it does not name"):
        read_study(folder)


def test_suites_are_known_by_their_digest_wherever_they_are(tmp_path: Path) -> None:
    paths, study, _ = two_suites(tmp_path)
    assert locate(study, []) == paths
    moved = paths[0].rename(tmp_path / "moved")
    assert locate(study, []) == [None, paths[1]]
    assert locate(study, [moved]) == [moved, paths[1]]
    other = studied(tmp_path / "third", seed=2)
    with pytest.raises(UserError, match="is no suite of this study"):
        locate(study, [other])
    other.rename(paths[0])
    with pytest.raises(UserError, match="is another suite than the study's"):
        locate(study, [])
    assert len(study.suites[0].label) > len(f"topk-w{WIDTH}-k4")
