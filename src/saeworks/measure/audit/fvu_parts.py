"""c. FVU by what each part of it is, with the shares that pursuit and the law over widths tell."""

from collections.abc import Mapping
from typing import ClassVar

from saeworks.measure.audit import scaling
from saeworks.measure.audit.pursuit import NONLINEAR_CHANGE, Pursuit
from saeworks.measure.audit.scaling_section import Scaling
from saeworks.measure.audit.split import FVU_LINEAR, FvuSplit
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.words import Sections
from saeworks.results.figure import ABSENT, ENCODER, LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.headlines import FVU_NONLINEAR
from saeworks.results.metric import Metric, Value


class FvuParts(AuditStudy):
    """FVU = nonlinear + encoder + linear + absent, from the numbers of other studies."""

    name = "parts"
    title = "The parts of FVU"
    about = (
        "FVU_nl without what pursuit recovers of it (encoder), and the linear part without what "
        "wider SAEs would recover by the law over widths (absent), where these are known. The "
        "interval of a part is that of the whole which it is the rest of."
    )
    chapter = "parts"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "part_nonlinear": Metric("Nonlinear", "FVU_nl less the encoder's part."),
        "part_encoder": Metric(
            "Encoder",
            "FVU_nl times the share of it that pursuit recovers; null where pursuit recovers none, "
            "was left out, or had too few tokens.",
        ),
        "part_linear": Metric("Linear", "FVU − FVU_nl less what is absent."),
        "part_absent": Metric(
            "Absent", "FVU − c by the law over widths; null where it is not known."
        ),
    }
    figures = (
        Figure(
            "parts",
            "stack",
            (
                Trace(scaling.NONLINEAR, "part_nonlinear", ink=NONLINEAR),
                Trace(scaling.ENCODER, "part_encoder", ink=ENCODER),
                Trace(scaling.LINEAR, "part_linear", ink=LINEAR),
                Trace(scaling.ABSENT, "part_absent", ink=ABSENT),
            ),
            "FVU",
            beside=True,
        ),
    )

    @classmethod
    def of(cls, sections: Sections) -> dict[str, Value]:
        """The parts at a site, as far as its other numbers tell them."""
        encoder = _encoder(sections)
        absent = Scaling.value(sections, scaling.ABSENT)
        parts = {
            "part_nonlinear": _less(FvuSplit.value(sections, FVU_NONLINEAR), encoder),
            "part_encoder": encoder,
            "part_linear": _less(FvuSplit.value(sections, FVU_LINEAR), absent),
            "part_absent": absent,
        }
        return {key: part for key, part in parts.items() if part.value is not None}


def _encoder(sections: Sections) -> Value:
    """The share of FVU_nl that pursuit recovers, times FVU_nl."""
    change = Pursuit.value(sections, NONLINEAR_CHANGE)
    whole = FvuSplit.value(sections, FVU_NONLINEAR).value
    if change.value is None or whole is None or change.value >= 0 or Pursuit.starved(sections):
        return Value(None)
    low, high = (None if end is None else -end * whole for end in (change.high, change.low))
    return Value(-change.value * whole, low, high)


def _less(whole: Value, part: Value) -> Value:
    """The rest, with the interval of the whole about it."""
    if whole.value is None or part.value is None:
        return whole
    shift = part.value
    low, high = (None if end is None else end - shift for end in (whole.low, whole.high))
    return Value(whole.value - shift, low, high)
