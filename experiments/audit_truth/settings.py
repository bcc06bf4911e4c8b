"""The faults of each SAE that is made by hand."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One SAE and its faults; those not named are absent.

    Attributes:
        missing: share of the features without a latent.
        dense: kind of g; `power` is its share of the power of the features.
        scale: the activation's factor at the latents, uniform between these.
        coefficients: standard deviation of the random factors.
        choice: share of the active latents that are replaced.
        encoder: codes are a TopK of the linear readout.
        directions: norm of what is added to the unit decoder rows before they are unit again.
    """

    name: str
    missing: float = 0.0
    dense: str = ""
    power: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    coefficients: float = 0.0
    crosstalk: bool = False
    choice: float = 0.0
    encoder: bool = False
    directions: float = 0.0


SETTINGS = (
    Setting("missing, few", missing=0.1),
    Setting("missing, many", missing=0.3),
    Setting("noise, weak", dense="noise", power=0.05),
    Setting("noise, strong", dense="noise", power=0.25),
    Setting("noise of rank 8", dense="low-rank", power=0.15),
    Setting("curve, weak", dense="curve", power=0.05),
    Setting("curve, strong", dense="curve", power=0.25),
    Setting("shrinkage, weak", scale=(0.8, 0.8)),
    Setting("shrinkage, strong", scale=(0.6, 0.6)),
    Setting("shrinkage, uneven", scale=(0.4, 1.0)),
    Setting("random factors, weak", coefficients=0.2),
    Setting("random factors, strong", coefficients=0.4),
    Setting("crosstalk", crosstalk=True),
    Setting("wrong choice, few", choice=0.1),
    Setting("wrong choice, many", choice=0.3),
    Setting("directions, weak", directions=0.2),
    Setting("directions, strong", directions=0.5),
    Setting("TopK encoder", encoder=True),
    Setting("noise and crosstalk", dense="noise", power=0.15, crosstalk=True),
    Setting("curve and crosstalk", dense="curve", power=0.15, crosstalk=True),
    Setting("missing and crosstalk", missing=0.2, crosstalk=True),
    Setting("missing and shrinkage", missing=0.2, scale=(0.7, 0.7)),
    Setting("noise and shrinkage", dense="noise", power=0.15, scale=(0.7, 0.7)),
    Setting("missing and directions", missing=0.2, directions=0.3),
    Setting("noise and TopK encoder", dense="noise", power=0.1, encoder=True),
    Setting(
        "everything",
        missing=0.15,
        dense="curve",
        power=0.1,
        scale=(0.7, 0.9),
        coefficients=0.2,
        choice=0.1,
        directions=0.2,
    ),
)
