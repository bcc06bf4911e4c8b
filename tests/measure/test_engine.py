"""Studies that share sweeps find what each finds alone, in fewer passes and encodings."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.toy_suites import SITES, random_sae, written_suite
from helpers.toys import clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.cli.main import main
from saeworks.config import AuditConfig, EvalConfig
from saeworks.dictionary.base import SAE, SparseCode
from saeworks.lm.model import LanguageModel
from saeworks.measure import banks as banks_module
from saeworks.measure.audit.run import audit_suites
from saeworks.measure.banks import code_rows
from saeworks.measure.engine import Chunk, ModelBatch, Reading, sweep
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick
from saeworks.measure.run import evaluate, evaluate_and_audit

SITE = "layers.1"
EVAL = EvalConfig(1200, splice_tokens=400, latents=3, dedup=0.5, bootstrap=20, device="cpu")
AUDIT = AuditConfig(
    2500, mlp=0, pursuit=100, codes=0, zeroing=100, downstream=100, bootstrap=20, device="cpu"
)


def suites_in(folder: Path) -> list[Path]:
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(200))
    return [written_suite(folder / name, folder, seed=at) for at, name in enumerate("ab")]


def close(one: Any, other: Any, place: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            close(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for at, (a, b) in enumerate(zip(one, other, strict=True)):
            close(a, b, f"{place}/{at}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-7), place
    else:
        assert one == other, place


def test_together_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of different numbers, batches of a few sequences, chunks of a few rows."""
    monkeypatch.setattr(banks_module, "LM_TOKENS", 7 * 32)
    monkeypatch.setattr(banks_module, "_ROWS", 50)
    monkeypatch.setattr(banks_module, "_ACTIVATIONS", 1)
    calls, encoded = [0], [0]
    run, encode = LanguageModel.run, SAE.encode_sparse

    def counted(lm: Any, *args: Any, **options: Any) -> Any:
        calls[0] += 1
        return run(lm, *args, **options)

    def counted_encode(sae: SAE, x: Tensor) -> SparseCode:
        encoded[0] += len(x)
        return encode(sae, x)

    monkeypatch.setattr(LanguageModel, "run", counted)
    monkeypatch.setattr(SAE, "encode_sparse", counted_encode)
    suites = suites_in(tmp_path)
    evaluated, audited = evaluate(suites, EVAL), audit_suites(suites, AUDIT)
    alone, calls[0], encoded[0] = (calls[0], encoded[0]), 0, 0
    lines: list[str] = []
    both = evaluate_and_audit(suites, EVAL, AUDIT, lines.append)
    assert calls[0] < 0.85 * alone[0] and encoded[0] < 0.9 * alone[1]
    assert list(dict.fromkeys(line.partition(": ")[0] for line in lines[1:])) == [
        "means, losses",
        "reconstruction, splice, dedup, audit, fit",
        "fits after fit",
        "latents, dedup, audit, second",
        "fits after second",
        "audit, test, downstream",
    ]
    for suite in suites:
        for one, other in zip(evaluated[suite], both[0][suite], strict=True):
            close(asdict(one), asdict(other), one.evaluation)
        sections = [asdict(found[suite])["sections"] for found in (audited, both[1])]
        for of_suite in sections:
            del of_suite["null"]  # errors are shuffled and noise is drawn within a chunk
        close(*sections)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites_in(tmp_path)
    options = ["--tokens", "1500", "--bootstrap", "0", "--latents", "0", "--no-splice", "--audit"]
    assert main(["eval", str(tmp_path / "a"), *options]) == 0
    printed = capsys.readouterr().out
    assert "FVU_nl" in printed and "on held-out documents" in printed
    written = {path.name for path in (tmp_path / "a" / "results").glob("*.json")}
    assert written == {"reconstruction.json", "geometry.json", "audit.json"}
    assert main(["eval", str(tmp_path / "a"), *options, "--json"]) == 0
    assert '"audit"' in capsys.readouterr().out


class Seen(Reading):
    """Keeps what it is handed."""

    def __init__(
        self,
        title: str,
        tokens: HeldOut,
        sae: SAE | None = None,
        needs: Sequence[Reading] = (),
        log: list[str] | None = None,
    ) -> None:
        self.title, self.held_out, self.needs, self.sites = title, tokens, needs, SITES
        self.width, self.sae = 0 if sae is None else sae.width, sae
        self.log = [] if log is None else log
        self.x: dict[str, list[Tensor]] = {site: [] for site in SITES}
        self.x_hat: dict[str, list[Tensor]] = {site: [] for site in SITES}
        self.places: list[Tensor] = []
        self.lasts = 0

    def begin(self) -> None:
        self.log.append(self.title)

    def rows(self, site: str, chunk: Chunk) -> None:
        self.x[site].append(chunk.x_ND)
        if self.sae is not None:
            self.x_hat[site].append(chunk.x_hat(self.sae))
        if site == SITES[0]:
            self.places.append(chunk.place_N)
            self.lasts += chunk.last
        flat = self.held_out.tokens_NT.flatten()
        assert torch.equal(chunk.token_N, flat[chunk.place_N])
        rows = self.held_out.row_NT.flatten()
        assert torch.equal(chunk.document_N, rows[chunk.place_N])

    def batch(self, batch: ModelBatch, tick: Tick) -> None:
        tokens = self.held_out.tokens_NT[batch.sequence_B]
        assert torch.equal(batch.held_out.tokens_NT, tokens)


def test_a_reading_sees_its_own_tokens_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks_module, "LM_TOKENS", 3 * 24)
    monkeypatch.setattr(banks_module, "_ROWS", 10)
    monkeypatch.setattr(banks_module, "_ACTIVATIONS", 1)
    lm, whole = tiny_llama(), held_out(sequences=20, documents=30)
    first, second = whole.halves()
    sae = random_sae(1)
    readings = [
        Seen("whole", whole, sae),
        Seen("some", whole.first(90), sae),
        Seen("first", first),
        Seen("second", second, sae),
    ]
    sweep(lm, readings)
    for reading in readings:
        kept = reading.held_out.keep_NT.flatten().nonzero()[:, 0]
        assert torch.equal(torch.cat(reading.places), kept), reading.title
        for site in SITES:
            x_ND = torch.cat(reading.x[site])
            assert torch.allclose(x_ND, clean_rows(lm, site, reading.held_out), atol=1e-5)
            if reading.sae is not None:
                assert torch.allclose(torch.cat(reading.x_hat[site]), sae(x_ND), atol=1e-5)


def test_what_is_needed_is_over_before() -> None:
    log: list[str] = []
    lm, tokens = tiny_llama(), held_out()
    mean = Seen("mean", tokens, log=log)
    tally = Seen("tally", tokens, needs=(mean,), log=log)
    beside = Seen("beside", tokens, log=log)
    beside.beside = tally
    last = Seen("last", tokens, needs=(tally, beside), log=log)
    early = Seen("early", tokens, log=log)
    sweep(lm, [last, early, tally])
    assert log == ["mean", "early", "tally", "beside", "last"]


def test_rows_of_a_code() -> None:
    at = torch.tensor([0, 2, 3])
    fixed = SparseCode(torch.arange(8).view(4, 2), torch.rand(4, 2), 9, (4,))
    ragged = SparseCode(
        torch.tensor([5, 1, 2, 0]),
        torch.rand(4),
        9,
        (4,),
        torch.tensor([0, 1, 3, 3, 4]),
    )
    for code in (fixed, ragged):
        assert torch.equal(code_rows(code, at).dense(), code.dense()[at])
