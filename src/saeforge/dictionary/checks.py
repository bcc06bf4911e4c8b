"""What the options of several architectures have to be."""

import math

from saeforge.errors import UserError


def check_width(width: int) -> None:
    """Raise a UserError unless there is a latent."""
    if width < 1:
        raise UserError(f"width = {width}: an SAE needs at least one latent")


def check_k(k: int, width: int) -> None:
    """Raise a UserError unless 1 ≤ k ≤ M."""
    if k < 1:
        raise UserError(f"k = {k}: at least one latent must be active per token")
    if k > width:
        raise UserError(
            f"k = {k} is more than width = {width}: a token cannot have more active"
            " latents than there are; lower k or raise width"
        )


def check_coefficient(name: str, value: float) -> None:
    """Raise a UserError unless the value is finite and not negative."""
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"{name} = {value}: it must be 0 or more")


def check_positive(name: str, value: float) -> None:
    """Raise a UserError unless the value is finite and positive."""
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name} = {value}: it must be positive")


def check_share(name: str, value: float) -> None:
    """Raise a UserError unless the value is a share of the run."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} = {value}: it is a share of the run, from 0 to 1")


def check_target_l0(target_l0: float | None, width: int) -> None:
    """Raise a UserError unless 0 < target L0 < M (or there is none)."""
    if target_l0 is None:
        return
    if not (target_l0 > 0 and math.isfinite(target_l0)):
        raise UserError(f"target_l0 = {target_l0}: it must be positive (null for none)")
    if target_l0 >= width:
        raise UserError(
            f"target_l0 = {target_l0:g} is not below width = {width}: an SAE in which every latent"
            " is active is not sparse; lower target_l0 or raise width"
        )
