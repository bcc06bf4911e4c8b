"""SAEs on the error of other SAEs, as codes of the activations that the error is of.

Shapes: N rows, D model width.
"""

from typing import NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.error import Component, Linear, component
from saeworks.dictionary.base import SAE, Batch, Context, SparseCode, StepOut
from saeworks.errors import UserError
from saeworks.measure.audit.linear_error import read_map
from saeworks.measure.banks import Bank
from saeworks.suite import Suite, load_suite


@final
class CodedError(SAE):
    """f = encode(t(x)), t the error e = x − x̂ of another SAE, its linear part ℓ or the rest u.

    Its code is of activations, like any SAE's; its reconstruction is of t, so that it cannot stand
    in for a site. It is not trained.

    Args:
        inner: the SAE on t.
        of: the SAE whose error it is, on raw activations.
        part: which part.
        linear: ℓ(x); not needed for e.
    """

    arch = "coded-error"

    def __init__(self, inner: SAE, of: SAE, part: Component, linear: Linear | None) -> None:
        super().__init__(inner.d, inner.config)
        self.inner, self.of, self.part, self.linear = inner, of, part, linear
        self.w_enc, self.w_dec, self.b_dec = inner.w_enc, inner.w_dec, inner.b_dec

    def encode_rows(self, x_ND: Float[Tensor, "N D"]) -> SparseCode:
        t_ND = component(self.part, x_ND, self.of, self.linear)
        return self.inner.encode_rows(t_ND.to(self.dtype))

    def initialise(self, x_BD: Tensor, generator: object) -> NoReturn:
        raise TypeError("the code of an error is not trained")

    def step(self, batch: Batch, context: Context) -> StepOut:
        raise TypeError("the code of an error is not trained")

    def folded(self, mean_D: Tensor, scale: Tensor) -> SAE:
        raise TypeError("the code of an error is on raw activations already")


def coded_errors(suite: Suite, device: torch.device) -> Bank:
    """Site → the code of a suite on the error of another, which lies where it lay in training.

    Raises:
        UserError: if that other suite is not there, or has changed since.
    """
    assert suite.error is not None
    part, path = suite.error["component"], suite.error["suite"]
    try:
        base = load_suite(path)
    except UserError as error:
        raise UserError(
            f"{suite.path} codes the error of {path}, which is needed to make it: {error}"
        ) from None
    if base.digest() != suite.error["digest"]:
        raise UserError(
            f"{suite.path} codes the error of {path}, which has changed since; restore that suite"
        )
    bank: dict[str, SAE] = {}
    for site in suite.sites:
        tensors = {k: t.to(device) for k, t in suite.error_maps().get(site, {}).items()}
        linear = read_map(tensors) if tensors else None
        bank[site] = CodedError(suite.at(site), base.at(site), part, linear).to(device)
    return bank
