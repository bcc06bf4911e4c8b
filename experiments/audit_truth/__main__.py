"""The audit beside the truth: what its parts find, and what they take for something else.

    python -m experiments.audit_truth [{all,collect,table}]

SAEs with known faults on activations of which everything is known, audited. What is made, and what
counts as found: criteria.md. Two more SAEs, trained on such activations, are shown without being
judged. Writes results/audit_truth.json and results/audit_truth.md, in 25 minutes on one thread of a
busy machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from experiments.audit_truth.makers import TOKENS, D, F, K, Made, by_hand, trained, world
from experiments.audit_truth.readings import judged, numbers
from experiments.audit_truth.settings import SETTINGS, Setting
from experiments.audit_truth.table import markdown
from experiments.runs import Found, Given, study
from saeworks.dictionary.base import SparseCode
from saeworks.measure.audit import folds
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.engine import SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.synthetic import SyntheticTest

DOCUMENT = 100
"""Tokens of a document."""


def measured(place: Place) -> Sequence[Measurement]:
    tokens = 4096
    return [
        *base(place),
        SyntheticTest(place),
        Pursuit(place, tokens),
        Attribution(place),
        MlpProbe(place, 4 * tokens),
    ]


@torch.no_grad()
def audited(made: Made, x_ND: Tensor) -> dict[str, Any]:
    """Section → metric → [value, low, high]."""
    document_N = torch.arange(TOKENS) // DOCUMENT
    fold_R = folds.assign(torch.bincount(document_N).numpy(), 0)
    place = Place(D, len(fold_R), x_ND.device, 0, codes=16384)
    site = SiteAudit("x", place, ["sae"], measured)
    fold_N = torch.from_numpy(fold_R)[document_N]
    for phase in range(3):
        for rows_n in torch.split((fold_N == phase).nonzero()[:, 0], 4096):
            through = {"sae": through_code(made, made.f_NM[rows_n])}
            site.add(phase, x_ND[rows_n], Tokens(document_N[rows_n]), through)
        site.finish(phase)
    return {
        section: {key: [v.value, v.low, v.high] for key, v in values.items()}
        for section, values in site.saes["sae"].values(200, 0).items()
    }


def through_code(made: Made, f_NM: Tensor) -> Callable[[Tensor], SaeOutput]:
    top = f_NM.topk(K, dim=1)
    code = SparseCode(top.indices, top.values, made.sae.width, (len(f_NM),))
    return lambda x_ND: SaeOutput(made.sae.decode(code), made.sae, code)


def collect(_: Given) -> Found:
    """Make and audit every SAE."""
    rows, extra = [], []
    for number, setting in enumerate(SETTINGS):
        rows_of = world(setting, number)
        made = by_hand(setting, rows_of, number)
        row = {"name": setting.name, "setting": asdict(setting), "truth": made.truth}
        rows.append(row | {"sections": audited(made, rows_of.x_ND)})
        print(setting.name, flush=True)
    for width in (F, F // 2):
        rows_of = world(Setting("", dense="noise", power=0.1), 99)
        made = trained(width, rows_of, 99)
        row = {"name": f"trained TopK, M = {width}", "truth": made.truth}
        extra.append(row | {"sections": audited(made, rows_of.x_ND)})
        print(row["name"], flush=True)
    data = {"readings": judged(read_off(rows)), "settings": rows, "trained": extra}
    return dict(without_nan(data))


def read_off(rows: Sequence[Found]) -> list[Found]:
    """The rows with the numbers that the readings are about."""
    return [row | {"audit": numbers(row["sections"])} for row in rows]


def table(data: Found, _: str) -> str:
    rows, extra = read_off(data["settings"]), read_off(data["trained"])
    return markdown(rows, extra, judged(rows))


def without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def main(arguments: Sequence[str] | None = None) -> None:
    study(__doc__, __file__, arguments, collect=collect, table=table)


if __name__ == "__main__":
    main()
