import errno
import json
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fakes import CONFIG, FakeLM, Relay, StopAt, fake_source, fake_trainer, weights
from helpers.synthetic import SyntheticSource
from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.config import BufferConfig
from saeworks.errors import UserError
from saeworks.files import access
from saeworks.suite import find_suites, load_suite


class NaNAt(Relay):
    """Puts a NaN into one plane of a given batch."""

    def __init__(self, inner: ActivationSource, batch: int) -> None:
        super().__init__(inner)
        self.at = batch

    def change(self, batch: ActivationBatch) -> ActivationBatch:
        if self.drawn == self.at:
            batch.x["layers.1"][3, 5] = float("nan")
        return batch


def lines(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    found = []
    for file in sorted(out.rglob("metrics.jsonl")):
        found += [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clock = ("tokens_per_second", "seconds", "step_seconds", "rss_bytes")
    return [{k: v for k, v in record.items() if k not in clock} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    assert fake_trainer(out).run() == "finished"
    return out


def test_the_same_seed_gives_the_same_bytes_and_another_others(whole: Path, tmp_path: Path):
    fake_trainer(tmp_path / "same").run()
    fake_trainer(tmp_path / "other", seed=1).run()
    assert len(weights(whole)) == 4
    assert weights(tmp_path / "same") == weights(whole)
    other = weights(tmp_path / "other")
    assert all(other[file] != data for file, data in weights(whole).items())


def test_training_lowers_the_fvu(whole: Path):
    records = lines(whole)
    for variant_site in {(r["site"]) for r in records}:
        fvu = [r["fvu"] for r in records if r["site"] == variant_site]
        assert fvu[-1] < 0.8 * fvu[0]


def test_metrics_have_what_is_promised(whole: Path):
    records = lines(whole)
    assert len(records) == 8 * 2 * 2  # 40 steps, one in five; two variants, two sites
    keys = "kind step tokens site loss fvu l0 dead lr grad_norm tokens_per_second seconds rss_bytes"
    keys += " flops step_seconds tokens_per_latent"
    assert all(record.keys() == set(keys.split()) for record in records)
    last = records[-1]
    assert (last["step"], last["tokens"]) == (40, 2560)
    assert last["l0"] <= 4 and 0 <= last["dead"] <= 1 and "reconstruction" in str(last["loss"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 6, 7, 23])
def test_a_signal_checkpoints_and_the_same_command_resumes(
    whole: Path, tmp_path: Path, number: int, at: int
):
    said: list[str] = []
    trainer = fake_trainer(tmp_path, source=StopAt(fake_source(), at, number), say=said.append)
    before = signal.getsignal(number)
    assert trainer.run() == "interrupted"
    assert signal.getsignal(number) is before
    assert said[-1] == f"interrupted at step {at} of 40; run the same command again to resume"
    assert fake_trainer(tmp_path, say=said.append).run() == "finished"
    assert f"resuming {tmp_path} at step {at} of 40" in said
    assert weights(tmp_path) == weights(whole)
    assert timeless(lines(tmp_path)) == timeless(lines(whole))


def test_a_signal_during_a_long_fill_does_not_wait_for_it(whole: Path, tmp_path: Path):
    lm = FakeLM()
    source = fake_source(lm=lm)
    plain_run = lm.run

    def run(tokens_BT: torch.Tensor, hooks: Any) -> None:
        plain_run(tokens_BT, hooks)
        if lm.sequences_run > 70:  # in the middle of the third fill
            os.kill(os.getpid(), signal.SIGINT)

    lm.run = run  # type: ignore[method-assign]
    trainer = fake_trainer(tmp_path, source=source)
    assert trainer.run() == "interrupted"
    assert lm.sequences_run < 90 and 0 < trainer.step < 40
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)


def test_a_signal_before_the_first_step_leaves_nothing_to_resume(whole: Path, tmp_path: Path):
    lm, said = FakeLM(), list[str]()
    plain_run = lm.run

    def run(tokens_BT: torch.Tensor, hooks: Any) -> None:
        plain_run(tokens_BT, hooks)
        if lm.sequences_run == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    lm.run = run  # type: ignore[method-assign]
    trainer = fake_trainer(tmp_path, source=fake_source(lm=lm), say=said.append)
    assert trainer.run() == "interrupted"
    assert "before step 1" in said[-1]
    fake_trainer(tmp_path).run()
    assert weights(tmp_path) == weights(whole)


def test_a_signal_while_a_resume_refills_names_the_step(whole: Path, tmp_path: Path):
    interrupted(tmp_path, 9)
    lm, said = FakeLM(), list[str]()
    plain_run = lm.run

    def run(tokens_BT: torch.Tensor, hooks: Any) -> None:
        plain_run(tokens_BT, hooks)
        os.kill(os.getpid(), signal.SIGTERM)

    lm.run = run  # type: ignore[method-assign]
    trainer = fake_trainer(tmp_path, source=fake_source(lm=lm), say=said.append)
    assert trainer.run() == "interrupted"
    assert said[-1].startswith("interrupted at step 9 of 40;")
    fake_trainer(tmp_path).run()
    assert weights(tmp_path) == weights(whole)


class Kept:
    """A tracker that remembers whether it was closed."""

    closed = 0

    def write(self, name: str, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("how", ["finished", "interrupted", "refused"])
def test_trackers_are_closed_however_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    tracker = Kept()
    monkeypatch.setattr("saeworks.train.trainer.open_loggers", lambda *_: [tracker])
    sources = {"interrupted": StopAt(fake_source(), 3, signal.SIGINT)}
    source = {**sources, "refused": NaNAt(fake_source(), 3)}.get(how)
    with pytest.raises(UserError) if how == "refused" else nullcontext():
        assert fake_trainer(tmp_path, source=source).run() == how
    assert tracker.closed == 1


def test_a_finished_run_says_so_and_changes_nothing(whole: Path):
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in whole.rglob("*") if f.is_file()}
    said: list[str] = []
    assert fake_trainer(whole, say=said.append).run() == "finished"
    assert "finished already" in said[0]
    after = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in whole.rglob("*") if f.is_file()}
    assert before == after


def test_an_sae_does_not_depend_on_its_neighbours_in_the_run(whole: Path, tmp_path: Path):
    fake_trainer(tmp_path, saes=({"arch": "topk", "expansion": 2, "k": 4},)).run()
    alone, together = weights(tmp_path), weights(whole)
    for file, data in alone.items():
        assert together[f"topk-x2-k4/{file}"] == data


def test_saes_stepped_side_by_side_give_the_same_bytes_every_time(tmp_path: Path):
    torch.set_num_threads(2)
    config = replace(CONFIG, tokens=64 * 10, checkpoint_every=0)
    fake_trainer(tmp_path / "a", config).run()
    fake_trainer(tmp_path / "b", config).run()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_neither_probe_nor_log_nor_checkpoints_change_training(whole: Path, tmp_path: Path):
    seen: list[int] = []

    def probe(bank: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        torch.manual_seed(len(seen))
        seen.append(len(bank))
        torch.rand(3)
        return {site: {"held_out_fvu": 0.5, "delta_ce": 0.1} for site in bank}

    config = replace(CONFIG, log_every=3, checkpoint_every=0)
    trainer = fake_trainer(tmp_path, config, probe=probe)
    trainer.run()
    assert weights(tmp_path) == weights(whole)
    assert seen == [2] * 2 * 4  # both sites; two variants, at steps 10, 20, 30, 40
    held_out = lines(tmp_path, "held_out")
    assert held_out[0] == {
        "kind": "held_out",
        "site": "layers.0",
        "step": 10,
        "tokens": 640,
        "held_out_fvu": 0.5,
        "delta_ce": 0.1,
    }


def test_the_probe_gets_saes_on_raw_activations(tmp_path: Path):
    source = SyntheticSource(64, d=16, features=24, active=2)
    fvu: list[float] = []

    def probe(bank: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        x_BD = 7 + 3 * SyntheticSource(64, d=16, features=24, active=2).head("synthetic", 64)
        error = (x_BD - bank["synthetic"](x_BD)).square().sum()
        fvu.append(float(error / (x_BD - x_BD.mean(0)).square().sum()))
        return {}

    class Shifted(Relay):
        def change(self, batch: ActivationBatch) -> ActivationBatch:
            x = {site: 7 + 3 * x_BD for site, x_BD in batch.x.items()}
            return ActivationBatch(x, batch.document, batch.position)

        def head(self, plane: str, tokens: int) -> torch.Tensor:
            return 7 + 3 * self.inner.head(plane, tokens)

    config = replace(CONFIG, tokens=64 * 200)
    trainer = fake_trainer(tmp_path, config, source=Shifted(source), probe=probe)
    trainer.run()
    assert fvu[-1] < 0.6


def test_the_probe_leaves_the_gpus_it_does_not_use_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    plain_fork = torch.random.fork_rng

    def fork(devices: Any = None) -> Any:
        asked.append(devices)
        return plain_fork(devices)

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    fake_trainer(tmp_path, probe=lambda bank: {}).run()
    assert asked == [[]] * 4


def test_normalisers_bring_the_first_rows_to_mean_0_and_power_d(tmp_path: Path):
    trainer = fake_trainer(tmp_path, buffer=BufferConfig(normaliser_tokens=128))
    trainer.run()
    source = fake_source()
    for site, d in source.planes.items():
        x_BD = trainer.normalisers["centre-scale"][site].normalise(source.head(site, 128))
        assert torch.allclose(x_BD.mean(0), torch.zeros(d), atol=1e-5)
        assert float(x_BD.square().sum(1).mean()) == pytest.approx(d, rel=1e-5)


def test_dead_latents_are_those_that_have_not_fired_for_long(tmp_path: Path):
    trainer = fake_trainer(tmp_path, replace(CONFIG, log_every=1))
    fired: list[torch.Tensor] = []
    learner = trainer._learners[0]
    plain_step = type(learner.member.sae).step

    def step(batch: Any, context: Any) -> Any:
        out = plain_step(learner.member.sae, batch, context)
        recent = torch.stack(fired[-4:]).any(0) if fired else out.fired
        if len(fired) >= 5:  # dead_tokens = 300: after five steps of 64 tokens without firing
            expected = (~(recent | fired[-5])).nonzero().squeeze(1)
            assert torch.equal(context.dead, expected)
        else:
            assert len(context.dead) == 0
        fired.append(out.fired)
        return out

    learner.member.sae.step = step  # type: ignore[method-assign]
    trainer.run()
    assert len(fired) == 40


@pytest.mark.parametrize("at", [1, 12])
def test_nan_stops_before_the_optimiser_and_keeps_the_good_state(
    whole: Path, tmp_path: Path, at: int
):
    with pytest.raises(UserError, match=rf"layers\.1 hold NaN or Inf in batch {at};"):
        fake_trainer(tmp_path, source=NaNAt(fake_source(), at)).run()
    if at > 1:
        assert (tmp_path / "checkpoints" / "step-00000011").is_dir()
    fake_trainer(tmp_path).run()  # the activations are good this time
    if at == 1:
        assert weights(tmp_path) == weights(whole)


def test_a_nan_from_the_language_model_leaves_a_checkpoint(tmp_path: Path):
    lm = FakeLM()
    source = fake_source(lm=lm)
    plain_run = lm.run

    def run(tokens_BT: torch.Tensor, hooks: Any) -> None:
        if lm.sequences_run > 70:
            lm.tables["layers.1"][:] = float("nan")
        plain_run(tokens_BT, hooks)

    lm.run = run  # type: ignore[method-assign]
    trainer = fake_trainer(tmp_path, source=source)
    with pytest.raises(UserError, match=r"layers\.1 hold NaN or Inf in batch \d+ of the text"):
        trainer.run()
    assert (tmp_path / "checkpoints" / f"step-{trainer.step:08d}").is_dir()
    for learner in trainer._learners:
        assert all(p.isfinite().all() for p in learner.member.sae.parameters())


def spoiled(out: Path, at: int, what: str, **changes: Any) -> str:
    """What a run says in which one of four SAEs goes wrong at a step; its files are all good."""
    trainer = fake_trainer(out, replace(CONFIG, **changes))
    learner = trainer._learners[1]
    sae, step, update = learner.sae, learner.sae.step, learner.optimiser.step

    def bad_step(batch: Any, context: Any) -> Any:
        found = step(batch, context)
        if trainer.step + 1 == at and what == "loss":
            found.loss_terms["reconstruction"] = found.loss_terms["reconstruction"] * torch.nan
        return found

    def bad_update(lr: float | None = None) -> Any:
        norm = update(lr)
        if trainer.step + 1 == at and what == "weights":
            sae.get_parameter("b_dec").data[2] = torch.inf
        return norm * torch.inf if trainer.step + 1 == at and what == "gradient" else norm

    sae.step, learner.optimiser.step = bad_step, bad_update  # type: ignore[method-assign]
    with pytest.raises(UserError) as error:
        trainer.run()
    for file in (out / "checkpoints").glob("*/sae-*.safetensors"):
        access.check_finite(file, access.read_tensors(file))
    assert not list(out.rglob("suite.json")) and len(lines(out)) % 4 == 0
    return str(error.value)


@pytest.mark.parametrize(
    ("what", "at", "said"),
    [
        (
            "loss",
            12,
            "step 12 of 40: the loss term 'reconstruction' of topk-x2-k2 at layers.1 is nan",
        ),
        ("gradient", 12, "step 12 of 40: the gradient norm of topk-x2-k2 at layers.1 is inf"),
        (
            "weights",
            11,
            "step 12 of 40: the loss term 'reconstruction' of topk-x2-k2 at layers.1 is",
        ),
        ("weights", 14, "step 14 of 40: b_dec of topk-x2-k2 at layers.1 has NaN or infinity"),
        ("weights", 40, "step 40 of 40: b_dec of topk-x2-k2 at layers.1 has NaN or infinity"),
    ],
)
def test_a_run_that_is_no_longer_finite_stops_and_keeps_what_was_good(
    what: str, at: int, said: str, whole: Path, tmp_path: Path
) -> None:
    error = spoiled(tmp_path, at, what)
    kept = tmp_path / "checkpoints" / f"step-{(at - 1) // 7 * 7:08d}"
    assert said in error and f"the last good state is kept in {kept};" in error
    assert "lower train.lr" in error
    fake_trainer(tmp_path).run()  # nothing goes wrong this time
    assert weights(tmp_path) == weights(whole)


def test_a_run_that_diverges_at_once_keeps_nothing(tmp_path: Path) -> None:
    config = replace(CONFIG, lr=1e300, checkpoint_every=1)
    with pytest.raises(
        UserError, match=r"step [12] of 40: .* at layers\..* has NaN.*nothing was kept"
    ):
        fake_trainer(tmp_path, config).run()
    assert not list(tmp_path.glob("checkpoints/step-*")) and not list(tmp_path.rglob("suite.json"))
    with pytest.raises(UserError, match=r"no suite; training stopped at step .* lower train\.lr"):
        find_suites(tmp_path)  # the same command would stop again


def interrupted(out: Path, at: int) -> None:
    trainer = fake_trainer(out, source=StopAt(fake_source(), at, signal.SIGINT))
    assert trainer.run() == "interrupted"


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole: Path, tmp_path: Path):
    interrupted(tmp_path, 23)
    file = tmp_path / "checkpoints" / "step-00000023" / "sae-0002.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    said: list[str] = []
    assert fake_trainer(tmp_path, say=said.append).run() == "finished"
    assert "step-00000023 cannot be used, going back to the one before" in said[0]
    assert any("at step 21 of 40" in line for line in said)
    assert weights(tmp_path) == weights(whole)
    assert timeless(lines(tmp_path)) == timeless(lines(whole))


def test_another_configuration_is_refused_naming_the_keys(tmp_path: Path):
    interrupted(tmp_path, 5)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"train\.lr: 0\.003 → 0\.001\); .*choose another --out"):
        fake_trainer(tmp_path, replace(CONFIG, lr=1e-3)).run()
    with pytest.raises(UserError, match="seed: 0 → 1"):
        fake_trainer(tmp_path, seed=1).run()
    with pytest.raises(UserError, match=r"saes\.0\.k\.0: 2 → nothing"):
        fake_trainer(tmp_path, saes=({"arch": "topk", "expansion": 2, "k": 4},)).run()
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    free = replace(CONFIG, log_every=1, eval_every=7, checkpoint_every=9, eval_tokens=5)
    assert fake_trainer(tmp_path, free).run() == "finished"


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path):
    interrupted(tmp_path / "a", 5)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "b" / "checkpoints")
    with pytest.raises(UserError, match=r"step-00000005 is of another configuration \(seed: 0 → 1"):
        fake_trainer(tmp_path / "b", seed=1).run()


def test_a_folder_of_another_suite_is_refused(whole: Path, tmp_path: Path):
    (tmp_path / "topk-x2-k2").mkdir()
    (tmp_path / "topk-x2-k2" / "suite.json").write_text("{}")
    with pytest.raises(
        UserError, match="topk-x2-k2 holds another run or suite; choose another --out"
    ):
        fake_trainer(tmp_path).run()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        fake_trainer(tmp_path / "file").run()


@pytest.mark.parametrize("place", [".", "any-name"])
def test_a_suite_of_nobody_knows_whom_is_refused_and_nothing_written(tmp_path: Path, place: str):
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "suite.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="holds another run or suite; choose another --out"):
        fake_trainer(tmp_path).run()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_failed_before_its_first_checkpoint_does_not_keep_its_folder(
    whole: Path, tmp_path: Path
):
    with pytest.raises(UserError, match="in batch 1;"):
        fake_trainer(tmp_path, source=NaNAt(fake_source(), 1), seed=1).run()
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)


def test_a_run_of_another_configuration_keeps_its_suites_without_checkpoints(tmp_path: Path):
    fake_trainer(tmp_path).run()
    shutil.rmtree(tmp_path / "checkpoints")
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "state": "running"}))
    with pytest.raises(UserError, match="a run of another configuration"):
        fake_trainer(tmp_path, seed=1).run()


def test_two_processes_do_not_share_a_folder(tmp_path: Path):
    other = fake_trainer(tmp_path)
    with (
        other._run_dir.opened(print),
        pytest.raises(UserError, match="another process is writing in"),
    ):
        fake_trainer(tmp_path).run()


def test_a_full_disk_is_a_user_error_and_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain_replace = os.replace

    def full(source: Any, target: Any) -> None:
        if ".unfinished" in str(target) and trainer.step > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain_replace(source, target)

    trainer = fake_trainer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            trainer.run()
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000007", "step-00000014"]
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)


def test_a_suite_that_could_not_be_written_is_written_by_the_next_attempt(
    whole: Path, tmp_path: Path
):
    def fail(trained: Any) -> None:
        raise UserError("could not write")

    with pytest.raises(UserError, match="could not write"):
        fake_trainer(tmp_path, finish=fail).run()
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)


def test_a_finished_run_is_suites_that_load(whole: Path):
    suites = [load_suite(path) for path in find_suites(whole)]
    assert [suite.variant for suite in suites] == ["topk-x2-k2", "topk-x2-k4"]
    assert suites[0].meta["tokens"] == 2560 and suites[0].meta["epochs"] == 0
    x_BD = next(fake_source()).x["layers.1"]
    assert suites[0].at("layers.1")(x_BD).shape == x_BD.shape


def test_a_resumed_finished_step_count_needs_no_more_batches(tmp_path: Path):
    """Killed between the last checkpoint and the record that the run is finished."""
    fake_trainer(tmp_path).run()
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "state": "running"}))
    before = weights(tmp_path)
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == before


def test_a_finished_run_whose_suite_is_gone_writes_it_again(whole: Path, tmp_path: Path):
    fake_trainer(tmp_path).run()
    shutil.rmtree(tmp_path / "topk-x2-k4")
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)
    assert len(find_suites(tmp_path)) == 2


def test_a_run_that_ends_after_a_resume_at_its_last_step_records_its_epochs(tmp_path: Path):
    config = replace(CONFIG, tokens=64 * 50, checkpoint_every=0)
    for _ in range(2):
        trained: list[Any] = []
        fake_trainer(tmp_path, config, finish=trained.append).run()  # writes no suites
        assert [t.epochs for t in trained] == [1, 1]
        record = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps({**record, "state": "running"}))


def content(out: Path) -> dict[str, bytes]:
    """All files of the suites of a run."""
    return {str(p): p.read_bytes() for p in sorted(out.glob("topk*/**/*")) if p.is_file()}


def test_training_again_repairs_what_is_damaged_to_the_bit(tmp_path: Path):
    fake_trainer(tmp_path).run()
    good, said = content(tmp_path), list[str]()
    for name in ("suite.json", "metrics.jsonl", "normalisers.safetensors"):
        (file,) = tmp_path.glob(f"topk-x2-k4/{name}")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        assert fake_trainer(tmp_path, say=said.append).run() == "finished"
        assert any(f"repairing {tmp_path}: " in line and str(file) in line for line in said), said
        assert content(tmp_path) == good
    for file in tmp_path.glob("topk-x2-k*/groups/layers.1/*"):
        file.unlink()
    (tmp_path / "topk-x2-k2" / "metrics.jsonl").write_text("")
    assert fake_trainer(tmp_path).run() == "finished"
    assert content(tmp_path) == good


def test_without_a_checkpoint_what_is_damaged_is_trained_again(whole: Path, tmp_path: Path):
    fake_trainer(tmp_path).run()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "topk-x2-k4" / "groups" / "layers.0" / "weights.safetensors").unlink()
    assert fake_trainer(tmp_path).run() == "finished"
    assert weights(tmp_path) == weights(whole)
    assert [load_suite(path).variant for path in find_suites(tmp_path)]


def test_a_resume_has_the_log_of_its_checkpoint_whatever_became_of_it(tmp_path: Path):
    interrupted(tmp_path, 20)
    file = tmp_path / "topk-x2-k2" / "metrics.jsonl"
    before = file.read_bytes()
    file.write_bytes(b"lost")
    assert fake_trainer(tmp_path).run() == "finished"
    assert file.read_bytes().startswith(before) and len(file.read_bytes()) > len(before)


@pytest.mark.parametrize("name", ["checkpoints", "topk-x2-k2", "tensorboard"])
@pytest.mark.parametrize("there", [True, False], ids=["folder", "dangling"])
def test_a_link_that_leads_out_of_the_run_is_refused_first(tmp_path: Path, name: str, there: bool):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    if there:
        (tmp_path / "victim").mkdir()
    with pytest.raises(UserError, match=f"{name} leads to .*victim, outside"):
        fake_trainer(tmp_path / "run").run()
    assert not there or list((tmp_path / "victim").iterdir()) == []
    assert [p.name for p in (tmp_path / "run").iterdir()] == [name]


@pytest.mark.parametrize("name", [".lock", "topk-x2-k2/metrics.jsonl"])
def test_a_link_in_the_place_of_a_file_is_not_written_through(tmp_path: Path, name: str):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / "topk-x2-k2").mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with suppress(UserError):  # a log's link may also be replaced by a file
        fake_trainer(tmp_path / "run").run()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(("normaliser", "warned"), [("scale-only", True), ("centre-scale", False)])
def test_a_mean_that_nothing_takes_away_is_warned_of(
    tmp_path: Path, normaliser: Any, warned: bool
) -> None:
    class Shifted(Relay):
        def change(self, batch: ActivationBatch) -> ActivationBatch:
            return replace(batch, x={site: x_BD + 5 for site, x_BD in batch.x.items()})

        def head(self, plane: str, tokens: int) -> torch.Tensor:
            return super().head(plane, tokens) + 5

    said: list[str] = []
    buffer = BufferConfig(normaliser=normaliser, normaliser_tokens=200)
    source = Shifted(fake_source(0, CONFIG.batch))
    assert fake_trainer(tmp_path, source=source, buffer=buffer, say=said.append).run() == "finished"
    assert any("the normaliser does not centre" in line for line in said) == warned
    sites = load_suite(find_suites(tmp_path)[0]).meta["sites"]
    assert all(site["mean_over_std"] > 1 for site in sites.values())
