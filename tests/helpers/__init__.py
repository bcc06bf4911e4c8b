"""What tests share."""

from helpers import annotations

__all__ = ["annotations"]  # jaxtyping's import hook finds `helpers.annotations.checked` only here
