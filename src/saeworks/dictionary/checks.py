"""What the options of several architectures have to be."""

import math

from saeworks.errors import UserError

_MOST_LATENTS = 2**31 - 1
_LARGEST = 1e30
"""Still a float32 when √D or a sum over a batch multiplies it."""


def check_width(width: int) -> None:
    """Raise a UserError unless there is a latent, and no absurd number of them."""
    if width < 1:
        raise UserError(f"width = {width}: an SAE needs at least one latent")
    if width > _MOST_LATENTS:
        raise UserError(f"width = {width}: it must be at most {_MOST_LATENTS}")


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
    """Raise a UserError unless the value is a number of float32 that is not negative."""
    if not 0 <= value <= _LARGEST:
        raise UserError(f"{name} = {value}: it must be 0 or more, and at most {_LARGEST:g}")


def check_positive(name: str, value: float) -> None:
    """Raise a UserError unless the value is a positive number of float32."""
    if not 0 < value <= _LARGEST:
        raise UserError(f"{name} = {value}: it must be positive, and at most {_LARGEST:g}")


def check_share(name: str, value: float) -> None:
    """Raise a UserError unless the value is a share of the run."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} = {value}: it is a share of the run, from 0 to 1")


def check_steering(name: str, start: float, target_l0: float | None, width: int) -> None:
    """Raise a UserError unless the coefficient is one, and, if there is a target, 0 < target L0 < M
    and the coefficient is positive."""
    check_coefficient(name, start)
    if target_l0 is None:
        return
    if not (target_l0 > 0 and math.isfinite(target_l0)):
        raise UserError(f"target_l0 = {target_l0}: it must be positive (null for none)")
    if target_l0 >= width:
        raise UserError(
            f"target_l0 = {target_l0:g} is not below width = {width}: an SAE in which every latent"
            " is active is not sparse; lower target_l0 or raise width"
        )
    if start == 0:
        raise UserError(f"{name} = 0: with target_l0 the controller needs a positive start")
