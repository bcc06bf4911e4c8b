"""Pursuit against a plain implementation, token by token; its section on a suite."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.audit_arrays import documents
from helpers.planted import CHUNK, Planted, audited, sae_of
from helpers.planted import value as planted_value
from helpers.toy_suites import random_sae
from helpers.toys import Toy, held_out, tiny_llama
from saeworks.config import AuditConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.measure.audit import folds, inference
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.inference import gradient_pursuit, matching_pursuit, refit
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.run import audit_banks

N, D, M = 30, 8, 40


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(inference, "TILE", 16 * M)  # two tiles
    generator = torch.Generator().manual_seed(0)
    atoms_MD = torch.nn.functional.normalize(torch.randn(M, D, generator=generator), dim=1)
    signal_ND = torch.randn(N, D, generator=generator)
    return signal_ND, atoms_MD, torch.randint(0, 6, (N,), generator=generator)


def plain(s: np.ndarray, atoms: np.ndarray, k: int, orthogonal: bool) -> np.ndarray:
    support: list[int] = []
    w, x_hat = np.zeros(0), np.zeros_like(s)
    for _ in range(k):
        r = s - x_hat
        p = atoms @ r
        order = [int(i) for i in np.argsort(-p) if int(i) not in support]
        support.append(order[0])
        chosen = atoms[support]
        if orthogonal:
            w = np.linalg.lstsq(chosen.T, s, rcond=None)[0]
        else:
            g = p[support]
            c = g @ chosen
            w = np.maximum(0, np.append(w, 0.0) + (c @ r) / (c @ c) * g)
        x_hat = w @ chosen
    return x_hat


@pytest.mark.parametrize("orthogonal", [False, True])
def test_equals_one_token_at_a_time(problem: tuple[torch.Tensor, ...], orthogonal: bool) -> None:
    signal_ND, atoms_MD, l0_N = problem
    found = (matching_pursuit if orthogonal else gradient_pursuit)(signal_ND, atoms_MD, l0_N)
    for row in range(N):
        expected = plain(
            signal_ND[row].double().numpy(), atoms_MD.double().numpy(), int(l0_N[row]), orthogonal
        )
        assert found[row].numpy() == pytest.approx(expected, abs=1e-4)
    assert found[l0_N == 0].abs().max() == 0


def test_refit_is_the_projection_on_what_is_on(problem: tuple[torch.Tensor, ...]) -> None:
    signal_ND, atoms_MD, _ = problem
    support_NK = torch.rand(N, M).argsort(dim=1)[:, :4]
    on_NK = torch.rand(N, 4) < 0.6
    found = refit(signal_ND, atoms_MD, support_NK, on_NK)
    for row in range(N):
        chosen = atoms_MD[support_NK[row][on_NK[row]]].double()
        weights = torch.linalg.lstsq(chosen.T, signal_ND[row].double()[:, None]).solution
        assert torch.allclose(found[row].double(), (chosen.T @ weights)[:, 0], atol=1e-4)


def test_better_inference_recovers_what_a_random_encoder_loses() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    config = AuditConfig(bootstrap=20, mlp=0, downstream=0, adjacent=False, pursuit=150)
    sae = random_sae(1, k=4).requires_grad_(False)
    sae.w_enc.normal_(generator=torch.Generator().manual_seed(1))
    found = audit_banks({"random": {"layers.1": sae}}, lm, sample, config)

    def value(name: str, metric: str) -> float:
        number = found[name].value("layers.1", "pursuit", metric).value
        assert number is not None
        return number

    order = [value("random", f"fvu_{name}") for name in ("omp", "pursuit", "encoder")]
    assert order == sorted(order)
    assert value("random", "fvu_refit") < value("random", "fvu_encoder")
    assert value("random", "fvu_change") < -0.1


def test_an_sae_that_never_fires_is_left_as_it_is() -> None:
    sae = build_sae("jumprelu", d=16, width=48).requires_grad_(False)
    sae.get_parameter("b_enc").fill_(-1e6)
    config = AuditConfig(bootstrap=0, mlp=0, downstream=0, adjacent=False, pursuit=150)
    one = audit_banks({"silent": {"layers.1": sae}}, tiny_llama(), held_out(60, 150), config)
    fvu = {
        name: one["silent"].value("layers.1", "pursuit", f"fvu_{name}").value
        for name in ("encoder", "pursuit", "omp", "refit")
    }
    assert fvu["encoder"] is not None and fvu["encoder"] > 0
    assert fvu == pytest.approx(dict.fromkeys(fvu, fvu["encoder"]))


def test_a_slice_in_which_nothing_fires() -> None:
    """The last rows that pursuit takes of a fold are the first of a chunk, and have no pairs."""
    planted, taken = Planted.draw(6000), CHUNK + 50
    fold_N = folds.assign(torch.bincount(documents(6000)).numpy(), 0)[documents(6000).numpy()]
    values_NK, x_ND = planted.values_NK.clone(), planted.x()
    for fold in range(3):
        values_NK[(fold_N == fold).nonzero()[0][CHUNK:taken]] = 0.0
    found = [
        audited(
            x_ND,
            planted.indices_NK,
            values_NK,
            sae_of(planted.atoms_MD),
            lambda place: [*base(place), Pursuit(place, taken), Attribution(place)],
            packed=packed,
        )
        for packed in (False, True)
    ]
    for key in ("fvu_encoder", "fvu_refit", "fvu_omp", "fvu_pursuit"):
        rows, pairs = (planted_value(one, "pursuit", key) for one in found)
        assert pairs == pytest.approx(rows, rel=1e-6) and rows > 0.01


class _Watch(TorchDispatchMode):
    """The largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.largest = max(self.largest, found.untyped_storage().nbytes() // 4)
        return found


@pytest.mark.parametrize("method", ["pursuit", "omp", "refit"])
def test_dense_codes_take_no_more_memory(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, m, k = 200, 32, 64, 24
    monkeypatch.setattr(inference, "TILE", 4096)
    generator = torch.Generator().manual_seed(0)
    atoms_MD = torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=1)
    signal_ND = torch.randn(n, d, generator=generator)
    l0_N = torch.randint(0, k, (n,), generator=generator)
    support_NK = torch.rand(n, m, generator=generator).argsort(dim=1)[:, :k]
    on_NK = torch.arange(k) < l0_N[:, None]
    with _Watch() as watch:
        if method == "refit":
            refit(signal_ND, atoms_MD, support_NK, on_NK)
        else:
            pursue = matching_pursuit if method == "omp" else gradient_pursuit
            pursue(signal_ND, atoms_MD, l0_N)
    assert 4096 < watch.largest <= 2 * max(4096, n * k)  # twice: float64, and indices


def test_repeated_atoms_and_more_steps_than_dimensions() -> None:
    atoms_MD = torch.eye(4)[[0, 0, 1, 1, 2, 3]]
    signal_ND = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    for k, expected in ((2, [3.0, 2.0, 0.0, 0.0]), (5, [3.0, 2.0, 1.0, 0.5])):
        found = matching_pursuit(signal_ND, atoms_MD, torch.tensor([k]))
        assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_tokens_on_which_as_many_latents_fire_as_there_are_dimensions() -> None:
    """They are left out and counted: any x is a sum of so many."""
    config = AuditConfig(bootstrap=0, mlp=0, downstream=0, adjacent=False, pursuit=150)
    torch.manual_seed(0)
    dense = build_sae("relu", d=16, width=32).requires_grad_(False)
    dense.get_parameter(
        "b_enc"
    ).zero_()  # about half of the latents fire: on some tokens fewer than 16
    banks: dict[str, dict[str, SAE]] = {
        "toy": {"layers.1": Toy(16, gain=0.5)},
        "dense": {"layers.1": dense},
    }
    found = audit_banks(banks, tiny_llama(), held_out(60, 150), config)
    series = {name: one.sections["pursuit"].series["layers.1"] for name, one in found.items()}
    assert series["toy"]["left_out"] == {"second": 150, "test": 150}
    assert series["toy"]["tokens"] == series["toy"]["documents"] == {"second": 0, "test": 0}
    assert "fvu_omp" not in found["toy"].sections["pursuit"].sites["layers.1"]
    for fold in ("second", "test"):
        used, left_out = (series["dense"][key][fold] for key in ("tokens", "left_out"))
        assert used + left_out == 150 and used > 17 and left_out > 0
        assert 0 < series["dense"]["documents"][fold] <= 60
    assert found["dense"].value("layers.1", "pursuit", "fvu_omp").value is not None
