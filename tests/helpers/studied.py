"""Suites whose latents can be judged by people, and raters whose answers are known."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from helpers.whole_suites import trained
from saeworks.people.config import HumanStudyConfig
from saeworks.people.raters import Answer, open_answers
from saeworks.people.statistics import Verdict
from saeworks.people.study import DrawnLatent, HumanStudy, make_study
from saeworks.results.result import Result
from saeworks.results.series import Choice, Histogram, Latent, TokenContext, TokenEffect

SITES = ("layers.0", "layers.1")
WIDTH = 64


def context(latent: int, rank: int, kind: str = "top") -> TokenContext:
    """A context whose peak is the word `peak`, and whose other words say which it is."""
    tokens = [f" w{latent}", " a", " peak", f" r{rank}", "\n", " end"]
    return TokenContext(
        "top" if kind == "top" else "quantile",
        tokens,
        [0.0, 0.5, 4.0 / (rank + 1), 0, 0, 0],
        2,
        rank,
    )


def studied(
    path: Path, latents: int = 48, sites: Sequence[str] = SITES, seed: int = 0, live: int = WIDTH
) -> Path:
    """A suite with contexts of so many latents at each site."""
    path.mkdir(parents=True)
    trained(path, sites, width=WIDTH, k=4, seed=seed)
    numbers = range(latents)
    series = {
        site: {
            "choice": asdict(Choice(WIDTH, live, "as the test chose them")),
            "latents": [
                asdict(
                    Latent(
                        number,
                        0.01,
                        1.0,
                        4.0,
                        Histogram([0.0, 4.0], [7]),
                        [],
                        [*(context(number, rank) for rank in range(3)), context(number, 3, "rest")],
                        [TokenEffect(" up\n", 0.5)],
                        [TokenEffect(" down", -0.5)],
                    )
                )
                for number in numbers
            ],
        }
        for site in sites
    }
    result = Result("latents", "Latents", {}, tokens=2000, documents=20, series=series)
    result.write(path / "results" / "latents.json")
    return path


def two_suites(root: Path, latents: int = 8) -> tuple[list[Path], HumanStudy, Path]:
    """Two suites, a study of them, and its folder."""
    paths = [studied(root / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    folder = root / "study"
    return paths, make_study(paths, folder, HumanStudyConfig(latents=latents)), folder


def judge(
    folder: Path, study: HumanStudy, rater: str, verdict: Callable[[DrawnLatent], Verdict | None]
) -> None:
    """Answer as a function of the latent says; None: leave it."""
    with open_answers(folder, study, rater) as answers:
        for place, drawn in enumerate(study.latents):
            if (given := verdict(drawn)) is not None:
                answers.save(Answer(place, given, seconds=1.5))
