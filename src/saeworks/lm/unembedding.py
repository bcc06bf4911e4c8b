"""What a direction in the residual stream does to the logits by the direct path alone.

The final norm and the head are found by running them, not by their names: activations of our own
stand in place of the last block's output, and what the head gets and what becomes of it are seen.

Shapes: D model width, V vocabulary, M directions, R rows of a probe, n tokens that are named.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saeworks.errors import UserError
from saeworks.lm.anatomy import IN, first_tensor
from saeworks.lm.model import Hook, LanguageModel

NormKind = Literal["LayerNorm", "RMSNorm", "none"]

_KINDS: tuple[NormKind, ...] = ("none", "RMSNorm", "LayerNorm")
_SEQUENCES, _LENGTH = 4, 5
_SIZE = 64.0
"""Size of the probe's activations: beside it the norm's ε is nothing."""
_RAMP = 1e4
"""The largest logit that is put in place of the head's own: any soft cap is reached there."""
_HEAD_ROWS = 4096
"""Rows of the head that are tried, at most."""
_TILE = 2**24
"""Effects in memory at once."""


class Ranked(NamedTuple):
    """Tokens of each direction by their effect, the strongest first."""

    token_Mn: Int[Tensor, "M n"]
    effect_Mn: Float[Tensor, "M n"]


@dataclass(frozen=True)
class Unembedding:
    """The way from the last block's output to the logits.

    logits = φ(W norm(x) + b), norm(x) = γ ⊙ (x − x̄)/σ(x) + β. For RMSNorm, x̄ = 0 and σ is the root
    mean square of x; without a norm σ = 1. φ(z) = s z, or s c tanh(z/c) with a soft cap at s c.

    The direct effect of a direction d is s W (γ ⊙ (d − d̄)), with d̄ the mean of d's components for
    LayerNorm and 0 otherwise: the change of the logits, per unit of d added to a residual stream
    with σ(x) = 1, while σ is held (Elhage et al. 2021). Of another stream it is 1/σ(x) of that. A
    soft cap reduces it further, by 1 − (logit/(s c))²; it is left out here.

    Attributes:
        norm: kind of the final norm.
        gain_D: γ; ones without a norm.
        weight_VD: W, the model's own tensor.
        scale: s.
        softcap: s c; None where the logits have none.
        tied: whether W is also the embedding.
        tokens: how many of the V the tokenizer has; others are never named.
    """

    norm: NormKind
    gain_D: Float[Tensor, " D"]
    weight_VD: Float[Tensor, "V D"]
    scale: float
    softcap: float | None
    tied: bool
    tokens: int

    @classmethod
    @torch.no_grad()
    def of(cls, lm: LanguageModel) -> "Unembedding":
        """That of a model.

        Raises:
            UserError: if its logits are not a linear map of the normalised last block's output.
        """
        try:
            return _examined(lm)
        except _Refused as reason:
            raise UserError(
                f"model {lm.name!r} has no direct effects on its logits: {reason}; measure effects "
                "by steering instead"
            ) from None

    def __str__(self) -> str:
        """In words, for a result."""
        folded = {"none": "no final norm"}.get(
            self.norm, f"the gain of the final {self.norm} folded in"
        )
        head = "the tied unembedding" if self.tied else "the unembedding"
        scale = "" if self.scale == 1 else f", times the logit scale {self.scale:.4g}"
        cap = "" if self.softcap is None else f", before the soft cap at {self.softcap:.4g}"
        return f"{head} with {folded}{scale}{cap}"

    def folded(self, directions_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """s γ ⊙ (d − d̄) in float32: what the head's rows are multiplied with.

        Raises:
            UserError: if the directions are of another width.
        """
        if directions_MD.shape[1] != len(self.gain_D):
            raise UserError(
                f"directions of width {directions_MD.shape[1]} are none in the residual stream of "
                f"width {len(self.gain_D)}; choose a site whose output is added to it (*@resid)"
            )
        d_MD = directions_MD.to(self.gain_D)
        if self.norm == "LayerNorm":
            d_MD = d_MD - d_MD.mean(dim=1, keepdim=True)
        return self.scale * self.gain_D * d_MD

    @torch.no_grad()
    def effect(self, directions_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """The direct effect of directions on every logit, in float32.

        Raises:
            UserError: if the directions are of another width.
        """
        folded_MD = self.folded(directions_MD)
        effect_MV = folded_MD.new_empty(len(folded_MD), len(self.weight_VD))
        for part in self._tiles(len(self.weight_VD)):
            effect_MV[:, part] = folded_MD @ self.weight_VD[part].float().T
        return effect_MV

    @torch.no_grad()
    def top(self, directions_MD: Float[Tensor, "M D"], n: int = 10) -> tuple[Ranked, Ranked]:
        """The n tokens that each direction promotes most, and those that it suppresses most; of
        equal ones the first. Memory: some 2²⁴ effects, whatever M and V.

        Raises:
            UserError: if the directions are of another width.
        """
        folded_MD = self.folded(directions_MD)
        n = min(n, self.tokens)
        rows = max(1, _TILE // max(1, min(self.tokens, self._step)))
        parts = [self._ranked(part_tD, n) for part_tD in torch.split(folded_MD, rows)]
        if not parts:
            none = Ranked(folded_MD.new_zeros(0, n, dtype=torch.int64), folded_MD.new_zeros(0, n))
            return none, none
        promoted, suppressed = (
            Ranked(*(torch.cat(tensors) for tensors in zip(*ranked, strict=True)))
            for ranked in zip(*parts, strict=True)
        )
        return promoted, suppressed

    def _ranked(self, folded_tD: Tensor, n: int) -> tuple[Ranked, Ranked]:
        up, down = (
            Ranked(folded_tD.new_empty(len(folded_tD), 0, dtype=torch.int64), folded_tD[:, :0])
            for _ in range(2)
        )
        for part in self._tiles(self.tokens):
            effect_tv = folded_tD @ self.weight_VD[part].float().T
            token_v = torch.arange(part.start, part.stop, device=effect_tv.device)
            up = _best(up, token_v, effect_tv, n)
            down = _best(down, token_v, -effect_tv, n)
        return up, Ranked(down.token_Mn, -down.effect_Mn)

    @property
    def _step(self) -> int:
        return max(1, _TILE // len(self.gain_D))

    def _tiles(self, tokens: int) -> Iterator[slice]:
        """Parts of the vocabulary, whose rows of W are in float32 one part at a time."""
        for start in range(0, tokens, self._step):
            yield slice(start, min(tokens, start + self._step))


def _best(
    best: Ranked, token_v: Int[Tensor, " v"], effect_tv: Float[Tensor, "t v"], n: int
) -> Ranked:
    """The best of those so far and of a tile's."""
    largest_tn, place_tn = effect_tv.topk(min(n, len(token_v)), dim=1)
    effects = torch.cat([best.effect_Mn, largest_tn], dim=1)
    tokens = torch.cat([best.token_Mn, token_v[place_tn]], dim=1)
    effect_tn, pick_tn = effects.topk(min(n, effects.shape[1]), dim=1)
    return Ranked(tokens.gather(1, pick_tn), effect_tn)


class _Refused(Exception):
    """Why a model has no direct effect."""


def _examined(lm: LanguageModel) -> Unembedding:
    probe = _Probe(lm)
    norm, gain_D = probe.norm()
    weight_VD = probe.weight_VD
    scale, softcap = probe.last()
    embedding = lm.model.get_input_embeddings().weight
    return Unembedding(
        norm=norm,
        gain_D=gain_D,
        weight_VD=weight_VD,
        scale=scale,
        softcap=softcap,
        tied=weight_VD.data_ptr() == embedding.data_ptr(),
        tokens=min(len(weight_VD), len(lm.tokenizer)) if lm.tokenizer else len(weight_VD),
    )


class _Probe:
    """A model, and what its head gets of activations that stand in for its last block's."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.site = lm, lm.blocks[-1]
        self.tokens_BT = torch.arange(_SEQUENCES * min(_LENGTH, lm.max_context)) % lm.vocabulary
        self.tokens_BT = self.tokens_BT.view(_SEQUENCES, -1)
        if self.site not in lm.anatomy.widths:
            reason = lm.anatomy.refused.get(self.site, "it is no site")
            raise _Refused(f"of its last block, {self.site}, {reason}")
        self.d = lm.anatomy.widths[self.site]
        self.precise = lm.model.dtype in (torch.float32, torch.float64)
        self.head, self.weight_VD = self._find_head()

    def _find_head(self) -> tuple[nn.Module, Tensor]:
        """The module with a matrix of V rows that runs last, and that matrix."""
        width = self.lm._logits(self.tokens_BT).shape[-1]
        ran: list[tuple[nn.Module, Tensor]] = []
        with ExitStack() as stack:
            for module in self.lm.model.modules():
                weight_VD = None if isinstance(module, nn.Embedding) else _matrix(module)
                if weight_VD is not None and len(weight_VD) == width:
                    stack.enter_context(_noted(ran, module, weight_VD))
            self.lm._logits(self.tokens_BT)
        if not ran:
            raise _Refused(f"no linear module gives its {width:,} logits")
        head, weight_VD = ran[-1]
        if (reads := weight_VD.shape[1]) != self.d:
            raise _Refused(f"its head reads {reads} numbers, not the {self.d} of its last block")
        return head, weight_VD

    def run(self, x_RD: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The last block's output (or what stands in its place), what the head gets, and what it
        gives, [R, ·] in float64 on the CPU."""
        seen: dict[str, Tensor] = {}

        def last_block(x_BTD: Tensor) -> Tensor | None:
            given = x_BTD if x_RD is None else x_RD.view(x_BTD.shape).to(x_BTD)
            seen["x"] = given
            return None if x_RD is None else given

        def head(args: Any, output: Tensor) -> None:
            seen.update(n=args[0], z=output)

        with _hooked(self.head, head):
            self.lm.run(self.tokens_BT, {self.site: last_block}, logits=True)
        x, n, z = (seen[key].detach().double().cpu().flatten(0, -2) for key in ("x", "n", "z"))
        if len(n) != len(x):
            raise _Refused(f"its head sees {len(n)} of {len(x)} tokens")
        return x, n, z

    def norm(self) -> tuple[NormKind, Tensor]:
        """Kind and gain of what is between the last block and the head."""
        generator = torch.Generator().manual_seed(0)
        rows = self.tokens_BT.numel()
        x_RD = _SIZE * (0.5 + torch.rand(rows, self.d, generator=generator))
        x_RD *= torch.randint(0, 2, x_RD.shape, generator=generator) * 2 - 1
        x_RD[1::2] = -x_RD[: rows // 2 * 2 : 2]
        probes, real = self.run(x_RD), self.run(None)
        self._check_head(*probes[1:])
        tolerance = 1e-4 if self.precise else 3e-2
        for kind in _KINDS:
            gain_D, bias_D = _affine(kind, *probes[:2])
            if all(_misfit(kind, gain_D, bias_D, x, n) <= tolerance for x, n, _ in (probes, real)):
                return kind, gain_D.float().to(self.lm.device)
        raise _Refused(
            "what its head gets is neither LayerNorm nor RMSNorm of the last block's output"
        )

    def _check_head(self, n_RD: Tensor, z_RV: Tensor) -> None:
        """The head is a matrix product; some of its rows are tried."""
        some = slice(None, None, -(-len(self.weight_VD) // _HEAD_ROWS))
        change_Rv = n_RD.diff(dim=0) @ self.weight_VD[some].double().cpu().T
        misfit = (z_RV[:, some].diff(dim=0) - change_Rv).norm() / change_Rv.norm()
        if not misfit <= (1e-4 if self.precise else 3e-2):
            raise _Refused("its head is no linear map")

    def last(self) -> tuple[float, float | None]:
        """s and s c: what becomes of the head's output, which a ramp stands for."""
        ramp: list[Tensor] = []

        def replaced(_args: Any, output: Tensor) -> Tensor:
            row_V = torch.linspace(-1, 1, output.shape[-1], dtype=torch.float64)
            row_V = _RAMP * row_V.sign() * row_V.abs() ** 8  # both very small and very large ones
            ramp[:] = [row_V.to(output).expand_as(output)]
            return ramp[0]

        with _hooked(self.head, replaced):
            logits = self.lm._logits(self.tokens_BT).double().cpu().flatten()
        z = ramp[0].double().cpu().flatten()
        small = (z.abs() > 1e-3) & (z.abs() < 0.05)
        scale = float((logits[small] * z[small]).sum() / z[small].square().sum())
        end = float(logits.abs().max())
        tolerance = 1e-3 if self.precise else 3e-2
        if _near(logits, scale * z, tolerance):
            return _rounded(scale), None
        if _near(logits, end * torch.tanh(scale * z / end), tolerance):
            return _rounded(scale), _rounded(end)
        raise _Refused("what becomes of its head's output is neither a scale nor a soft cap")


def _matrix(module: nn.Module) -> Tensor | None:
    """A module's weight, where it is a matrix."""
    weight = getattr(module, "weight", None)
    is_matrix = isinstance(weight, Tensor) and weight.dim() == 2 and weight.is_floating_point()
    return weight.detach() if isinstance(weight, Tensor) and is_matrix else None


def _noted(
    ran: list[tuple[nn.Module, Tensor]], module: nn.Module, weight_VD: Tensor
) -> AbstractContextManager[None]:
    """With a note taken whenever a module has run."""
    return _hooked(module, lambda _args, _output: ran.append((module, weight_VD)))


@contextmanager
def _hooked(module: nn.Module, hook: Callable[[Any, Any], Any]) -> Iterator[None]:
    """With a hook that gets a module's arguments and output, and may give another output."""

    def after(_module: nn.Module, args: Any, output: Any) -> Any:
        return hook(args, output)

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _normalised(kind: NormKind, x_RD: Tensor) -> Tensor:
    """(x − x̄)/σ(x), without ε."""
    if kind == "none":
        return x_RD
    if kind == "LayerNorm":
        x_RD = x_RD - x_RD.mean(dim=1, keepdim=True)
    return x_RD / x_RD.square().mean(dim=1, keepdim=True).sqrt()


def _affine(kind: NormKind, x_RD: Tensor, n_RD: Tensor) -> tuple[Tensor, Tensor]:
    """γ and β, if the norm is of that kind: of pairs of rows x and −x, which become β ± γ z."""
    z_RD = _normalised(kind, x_RD)
    pairs = slice(0, len(x_RD) // 2 * 2)
    plus, minus, z = n_RD[pairs][::2], n_RD[pairs][1::2], z_RD[pairs][::2]
    gain_D = ((plus - minus) * z).sum(dim=0) / (2 * z.square().sum(dim=0))
    return gain_D, (plus + minus).mean(dim=0) / 2


def _misfit(kind: NormKind, gain_D: Tensor, bias_D: Tensor, x_RD: Tensor, n_RD: Tensor) -> float:
    """How far what the head got is from γ z + β, relative to it; the largest of the rows.

    The scale of each row is free for a norm, whose ε makes it less than 1/σ.
    """
    part_RD, target_RD = gain_D * _normalised(kind, x_RD), n_RD - bias_D
    if kind != "none":
        factor_R = (part_RD * target_RD).sum(1) / part_RD.square().sum(1)
        if not bool(((factor_R > 0) & (factor_R < 1.05)).all()):
            return math.inf
        part_RD = factor_R[:, None] * part_RD
    misfit_R = (target_RD - part_RD).norm(dim=1) / target_RD.norm(dim=1)
    return float(misfit_R.nan_to_num(math.inf).max())


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool(((a - b).abs() <= tolerance * b.abs() + tolerance).all())


def _rounded(value: float) -> float:
    """To the digits that the probe is exact to."""
    return float(f"{value:.5g}")


@torch.no_grad()
def no_direct_path(lm: LanguageModel, site: str) -> str | None:
    """Why what is added at a site does not reach the last block's output unchanged when nothing
    else changes; None where it does.

    It does from a block's input or output and from what its attention or MLP adds, if the later
    blocks give their input, up to a constant, while their attention and MLP give zeros. That is
    tried.
    """
    branches = lm.anatomy.branches
    for index, block in enumerate(lm.blocks):
        adds = [branch.site for branch in branches.get(block, {}).values()]
        if site == block + IN or site == block or site in adds:
            later = lm.blocks[index if site == block + IN else index + 1 :]
            return next((why for why in (_blocked(lm, name) for name in later) if why), None)
    return "it is neither a block's input or output nor what its attention or MLP adds"


def _blocked(lm: LanguageModel, block: str) -> str | None:
    """Why a block does not give its input when its attention and MLP are silent."""
    both = lm.anatomy.branches.get(block, {}).values()
    if unknown := [site for site in (block + IN, block) if site not in lm.anatomy.widths]:
        return f"{unknown[0]} is no site"
    silent = {name for branch in both for name in (branch.module, branch.site) if name is not None}
    tokens_BT = torch.arange(_SEQUENCES)[:, None] % lm.vocabulary
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in silent:
            stack.enter_context(_hooked(lm.block(name), _zeros))

        def kept(site: str) -> Hook:
            return lambda x_BTD: seen.update({site: x_BTD.clone()})

        lm.run(tokens_BT, {site: kept(site) for site in (block + IN, block)})
    added_RD = (seen[block] - seen[block + IN]).double().cpu().flatten(0, 1)
    rounding = 8 * torch.finfo(seen[block + IN].dtype).eps * seen[block + IN].abs().max().item()
    if float((added_RD - added_RD[0]).abs().max()) > rounding:
        return f"{block} does not pass its input on"
    return None


def _zeros(_args: Any, output: Any) -> Any:
    zeros = torch.zeros_like(first_tensor(output))
    return (zeros, *output[1:]) if isinstance(output, tuple) else zeros
