from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.toys import Toy, held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.engine import Subject, measure
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies import reconstruction, splice
from saeworks.measure.sums import (
    KEY,
    read_sums,
    sums_path,
    write_sums,
)
from saeworks.results.result import Result

SUMS = {"layers.0": {"n": np.array([1.0, 0.0, 3.0]), "error": np.array([0.1, 0.0, 0.3])}}


def result(digest: str | None, evaluation: str = "reconstruction") -> Result:
    config = {} if digest is None else {KEY: digest}
    return Result(evaluation, "", config, tokens=4, documents=2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    digest = write_sums(tmp_path, "reconstruction", SUMS)
    found = read_sums(tmp_path, result(digest))
    assert found.keys() == SUMS.keys()
    for name, column in SUMS["layers.0"].items():
        assert found["layers.0"][name].dtype == np.float64
        assert (found["layers.0"][name] == column).all()


def bad(folder: Path, of: Result, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_sums(folder, of)
    assert "\n" not in str(error.value)
    assert "saeworks eval" in str(error.value)


def test_bad_sums_are_one_clear_line(tmp_path: Path) -> None:
    bad(tmp_path, result("0" * 64), "has no sums by document")
    digest = write_sums(tmp_path, "reconstruction", SUMS)
    bad(tmp_path, result(None), "has no sums by document")
    bad(tmp_path, result("0" * 64), "does not belong to reconstruction.json")
    uneven = {"a": {"n": np.ones(2), "error": np.ones(3)}}
    bad(tmp_path, result(write_sums(tmp_path, "reconstruction", uneven)), "different lengths")
    infinite = {"a": {"n": np.array([1.0, np.inf])}}
    bad(tmp_path, result(write_sums(tmp_path, "reconstruction", infinite)), "not finite")
    raw = bytearray(sums_path(tmp_path, "reconstruction").read_bytes())
    raw[-1] ^= 1
    sums_path(tmp_path, "reconstruction").write_bytes(raw)
    bad(tmp_path, result(digest), "does not belong")


def test_sums_reproduce_the_results() -> None:
    lm, sample = tiny_llama(), held_out()
    torch.manual_seed(0)
    site = "layers.1"
    banks: dict[str, dict[str, SAE]] = {
        "toy": {site: Toy(16, gain=0.5)},
        "topk": {site: build_sae("topk", d=16, width=40, k=3).requires_grad_(False)},
    }
    config = EvalConfig(bootstrap=50)
    subject = Subject.of(banks, lm, sample)
    study = reconstruction.Reconstruction(subject, config)
    measured, spliced = measure(lm, [study, splice.Splice(subject, config, study.means)])
    for name in banks:
        sums, result = measured[name].sums[site], measured[name].result
        assert sums["n"].sum() == sample.kept and isinstance(result, Result)
        found = bootstrap.estimate(sums, reconstruction.statistics(16), 50, config.seed)
        assert found.items() <= result.sites[site].items()
        sums, result = spliced[name].sums[site], spliced[name].result
        assert isinstance(result, Result)
        found = bootstrap.estimate(sums, splice.STATISTICS, 50, config.seed)
        assert found == result.sites[site]


def test_digest_tells_held_out_tokens_apart() -> None:
    sample = held_out()
    assert sample.digest == held_out().digest
    assert sample.digest != held_out(seed=1).digest
    assert sample.digest != sample.first(50).digest
    fewer = HeldOut._of(sample.tokens_NT, sample.document_NT, sample.keep_NT.roll(1, 0))
    assert sample.digest != fewer.digest
