"""When a decomposition says nothing: an SAE that gives the mean, or an affine map, has u ≈ 0 and
R² ≈ 1 whatever the model; and one that is no better than the mean is no SAE to speak of."""

FVU_TRIVIAL = 0.95
"""At or above this FVU the SAE reconstructs little but the mean: its error is x itself."""
R2_TRIVIAL = 0.99
"""At or above this R² of e the SAE's map is as good as affine."""
R2_NEARLY_X = 0.9
"""With such an R² of e an FVU near 1 means that e is nearly x; below it, that the SAE is wrong."""


def degenerate(fvu: float | None, r2_error: float | None, alpha: float | None) -> str | None:
    """Why the numbers say nothing of the model, or None.

    Args:
        alpha: α*, None where x̂ is constant.
    """
    at = _at(fvu, r2_error, alpha)
    if alpha is None:
        return f"trivially linear: x̂ is constant, so e = x − const ({at})"
    if r2_error is None:
        return f"trivially linear: e is constant and has no R² ({at})"
    if r2_error >= R2_TRIVIAL:
        return f"trivially linear: the SAE's map is nearly affine, or shrinks strongly ({at})"
    if fvu is not None and fvu >= FVU_TRIVIAL:
        if r2_error >= R2_NEARLY_X:
            return f"trivially linear: x̂ explains next to nothing of x, so e is nearly x ({at})"
        return f"x̂ reconstructs x no better than its mean does ({at})"
    return None


def _at(fvu: float | None, r2_error: float | None, alpha: float | None) -> str:
    return ", ".join(
        f"{name} {'undefined' if value is None else format(value, '.3f')}"
        for name, value in (("FVU", fvu), ("R² of e", r2_error), ("α*", alpha))
    )
