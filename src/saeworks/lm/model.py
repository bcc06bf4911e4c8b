"""The language model: capture at any sites, stop early, splice replacements in."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from saeworks.config import ModelConfig
from saeworks.errors import UserError, one_line
from saeworks.lm import loading
from saeworks.lm.anatomy import (
    IN,
    Anatomy,
    examine,
    first_tensor,
    input_key,
    is_site,
    shape_reason,
)
from saeworks.lm.fingerprint import fingerprint, unlike
from saeworks.lm.packing import Packing
from saeworks.lm.sites import SiteMap, find_blocks, named_modules
from saeworks.lm.tokenise import Tokeniser

Hook = Callable[[Tensor], Tensor | None]
"""Gets a site's activations [B, T, D]; returns None (observe) or a replacement (splice)."""

_NO_HOOKS: Mapping[str, Hook] = {}
_UNBOUNDED = 1 << 30


class _Stop(Exception):
    """Raised in the last hook to leave the forward pass: nothing after it is needed."""


class LanguageModel:
    """A causal language model whose activations can be read and replaced at named sites.

    The model is in eval mode and its parameters need no gradient, so a forward pass builds no
    graph unless a splice brings in a tensor that needs one; then gradients flow through.

    Attributes:
        name, revision: where it came from.
        fingerprint: of configuration and weights, the same in every process and under every
            version of transformers (`saeworks.lm.fingerprint`).
        model, tokenizer: the Hugging Face objects.
        device: where the model is.
        layers: number of transformer blocks.
        max_context: the longest sequence it takes (2³⁰ where the model sets no limit).
        bos_id, pad_id: the tokenizer's, or None.
        skippable: by index of a block, whether blocks up to it can be left out of a pass when
            their output is known (`saeworks.lm.prefix`), as far as it was tried.
        cached: whether a cache of keys and values gives what whole passes give; None until it was
            tried (`saeworks.lm.generate`).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        revision: str | None,
        device: str | torch.device,
    ) -> None:
        self.name = name
        self.revision = revision
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False)
        self.fingerprint = fingerprint(self.model)
        self._move()
        self.base: nn.Module = self.model.base_model
        text_config = self.model.config.get_text_config()
        self.vocabulary = int(self.model.get_input_embeddings().num_embeddings)
        longest = (
            getattr(text_config, "max_position_embeddings", None)
            or getattr(text_config, "max_seq_len", None)
            or _UNBOUNDED
        )
        self.max_context = int(longest) if longest > 0 else _UNBOUNDED  # XLNet says -1
        self.bos_id: int | None = getattr(tokenizer, "bos_token_id", None)
        self.pad_id: int | None = getattr(tokenizer, "pad_token_id", None)
        self._sites = self._examined(int(text_config.num_hidden_layers))
        self.layers = len(self.blocks)
        self.skippable: dict[int, bool] = {}
        self.cached: bool | None = None

    def _move(self) -> None:
        if all(tensor.device == self.device for tensor in self.model.parameters()):
            return  # some quantised models refuse to be moved, even to where they are
        try:
            self.model.to(self.device)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"model {self.name!r} cannot be moved to {self.device}: {one_line(error)}; "
                "choose the device it is on, or a model that is not quantised"
            ) from error

    def _examined(self, layers: int) -> SiteMap:
        modules = named_modules(self.base)
        blocks = find_blocks(modules, layers)
        try:
            anatomy = examine(self._logits, modules, blocks, self.vocabulary, self.max_context)
        except UserError as error:
            raise UserError(f"model {self.name!r}: {error}") from None
        except Exception as error:  # whatever a model raises that wants more than tokens
            raise UserError(
                f"model {self.name!r} does not run on tokens alone: {one_line(error)}; "
                "choose a causal language model of text"
            ) from error
        return SiteMap(self.base, blocks, anatomy)

    def _logits(self, tokens_BT: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens_BT.to(self.device), use_cache=False).logits
        return logits

    def __repr__(self) -> str:
        longest = "" if self.max_context == _UNBOUNDED else f", max_context={self.max_context}"
        return (
            f"LanguageModel({self.name!r}, layers={self.layers}, vocabulary={self.vocabulary}"
            f"{longest}, device={str(self.device)!r})"
        )

    @classmethod
    def load(cls, config: ModelConfig | str | Path, device: str | torch.device = "cpu") -> Self:
        """Load the model that `config` names: a Hugging Face id, a folder, or `embedded`, as a
        string or path if nothing else is to be said.

        One with random weights says so in its `revision`, which every suite and result records.

        Raises:
            UserError: if it cannot be loaded.
        """
        if isinstance(config, str | Path):
            config = ModelConfig(name=str(config))
        if not isinstance(config, ModelConfig):
            raise UserError(
                f"a model is loaded by its id or folder, not from {_kind(config)}; one that is in "
                "memory is taken by LanguageModel.wrap(model, tokenizer)"
            )
        model, tokenizer = loading.load(config)
        revision = config.revision
        if config.random_weights is not None:
            revision = f"{revision or 'main'}, random weights, seed {config.random_weights}"
        return cls(model, tokenizer, config.name, revision, device)

    @classmethod
    def wrap(
        cls,
        model: Any,
        tokenizer: Any,
        name: str = "custom",
        device: str | torch.device = "cpu",
    ) -> Self:
        """Use a Hugging Face model and tokenizer that are already in memory.

        The model is put in eval mode, its parameters are frozen, and it moves to `device`.
        """
        return cls(model, tokenizer, name, None, device)

    def unlike(self, recorded: object) -> str | None:
        """Why a recorded fingerprint is not this model's; None where it is. Those of earlier
        versions are recognised, under the version of transformers they were made with."""
        return unlike(recorded, self.model, self.fingerprint)

    @property
    def prefix(self) -> str:
        """The base model's name within `model` (`gpt_neox`), empty where they are the same."""
        names = {module: name for name, module in self.model.named_modules()}
        return str(names[self.base])

    @property
    def concurrent(self) -> bool:
        """Whether several threads may run the model at once: all its modules are of torch or
        transformers, whose forward passes leave nothing in them, and nobody replaced a forward."""
        return all(
            type(module).__module__.partition(".")[0] in ("torch", "transformers")
            and "forward" not in vars(module)
            for module in self.model.modules()
        )

    @property
    def blocks(self) -> list[str]:
        """Names of the transformer blocks, in order."""
        return self._sites.blocks

    def block(self, name: str) -> nn.Module:
        """The module of one of `blocks`."""
        return self._sites.module(name)

    @property
    def source(self) -> str:
        """What Hugging Face's `from_pretrained` loads the model from: its name, or its folder."""
        return loading.source(self.name)

    def sites(self, patterns: str | Sequence[str]) -> list[str]:
        """Canonical names, in model order, of the sites that one pattern or several select.

        A pattern is a module's name relative to the base model, in which `*` stays within one
        dotted segment (`layers.*` is every block's output and nothing inside), with `@in` for the
        module's input; or an alias: `3@resid`, `3@attn`, `3@mlp` (`*@resid` for all blocks), the
        block's output and what its attention and MLP add to the residual stream, in every family.
        That is checked, on a few tokens, when the model is loaded: output = input + attention +
        MLP, to rounding. Where no module's output is what is added, the alias is refused.

        A module is no site if it runs more than once in a pass, or gives anything but [B, T, D].
        A pattern with `*` leaves such out (`left_out` says which and why).

        Raises:
            UserError: if there is no pattern, or one selects nothing, with the reason and the
                nearest names.
        """
        if not patterns and not isinstance(patterns, int):
            raise UserError("sites is empty; give at least one, such as '*@resid'")
        named = [patterns] if isinstance(patterns, str | int) else list(patterns)
        for pattern in named:
            if not isinstance(pattern, str):
                raise UserError(
                    f"site {pattern!r} is no name; of block {pattern}, say '{pattern}@resid'"
                )
        return self._sites.match(named)

    def left_out(self, patterns: Sequence[str]) -> str | None:
        """A sentence on the modules that patterns with `*` name but that are no sites; None where
        there are none."""
        return self._sites.left_out(patterns)

    @property
    def attention(self) -> list[str]:
        """The modules that mix tokens, one of a block at most: attention, or what is there in its
        place."""
        return self._sites.sublayers("attn")

    @property
    def anatomy(self) -> Anatomy:
        """What the modules gave and what the blocks add, as found on loading."""
        return self._sites.anatomy

    def width(self, site: str) -> int:
        """D of a site.

        Raises:
            UserError: if the model has no such site.
        """
        (name,) = self._sites.match([site])
        return self.anatomy.widths[name]

    def run(
        self,
        tokens_BT: Int[Tensor, "B T"],
        hooks: Mapping[str, Hook] = _NO_HOOKS,
        *,
        logits: bool = False,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B _ V"] | None:
        """One forward pass with a hook at each of the given sites.

        A hook gets the site's activations [B, T, D] (of a tuple, its first tensor). If it returns
        a tensor of the same shape, the model goes on with that in its place. Without `logits` the
        pass stops right after the last of the hooks has run.

        Args:
            tokens_BT: token ids, on any device.
            hooks: by canonical site name.
            logits: run to the end and return the logits, in the model's precision.
            attention_mask: 1 for tokens, 0 for padding (not needed for padding on the right).

        Raises:
            UserError: if a site is unknown, never runs, or is not of shape [B, T, D]; if a
                replacement has another shape; if tokens do not fit the model.
        """
        tokens_BT = self._checked(tokens_BT)
        inputs: dict[str, Any] = {
            "input_ids": tokens_BT.to(self.device),
            "use_cache": False,
        }
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
        try:
            with self._hooked(hooks, tokens_BT, stop=not logits):
                if logits:
                    out: Tensor = self.model(**inputs).logits
                    return out
                if hooks:
                    self.base(**inputs)
        except _Stop:
            pass
        return None

    def extend(
        self, tokens_BT: Int[Tensor, "B T"], hooks: Mapping[str, Hook], cache: Any = None
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """The logits of tokens that follow those in a cache of keys and values, and the cache with
        them; a new cache where none is given, and None where the model has no such cache.

        Hooks get the activations of these tokens alone.
        """
        with self._hooked(hooks, tokens_BT, stop=False):
            out = self.model(
                input_ids=tokens_BT.to(self.device), past_key_values=cache, use_cache=True
            )
        return out.logits, getattr(out, "past_key_values", None)

    def generate(
        self,
        tokens: Int[Tensor, "B T"] | str,
        hooks: Mapping[str, Hook] = _NO_HOOKS,
        *,
        new_tokens: int = 20,
        temperature: float = 0.0,
        seed: int = 0,
        positions_BT: Bool[Tensor, "_ _"] | None = None,
    ) -> Int[Tensor, "B more"]:
        """Tokens and what the model says after them, [B, T + new_tokens], on the CPU, with a hook
        at each of the given sites in every pass; see `saeworks.lm.generate`.

        Args:
            tokens: prompts of one length, or one text (see `tokens`).
            hooks: as of `run`; they apply to every new token.
            new_tokens: how many are generated.
            temperature: p ∝ exp(logit / temperature); 0 takes the likeliest token.
            seed: of the draws.
            positions_BT: the prompts' positions at which hooks replace; by default all but BOS.

        Raises:
            UserError: if a number is out of range, tokens do not fit the model, or as `run`.
        """
        from saeworks.lm.generate import generate

        prompts_BT = self.tokens(tokens) if isinstance(tokens, str) else self._checked(tokens)
        return generate(self, prompts_BT, hooks, new_tokens, temperature, seed, positions_BT)

    @contextmanager
    def _hooked(
        self, hooks: Mapping[str, Hook], tokens_BT: Tensor, *, stop: bool
    ) -> Iterator[None]:
        """The context of one pass with hooks, each of which must run once in it.

        Args:
            stop: leave the pass (`_Stop`) when the last of the hooks has run.
        """
        waiting = set(self.sites(list(hooks)) if hooks else [])
        unknown = [site for site in hooks if site not in waiting]
        if unknown:
            raise UserError(f"{unknown[0]!r} is a pattern; resolve it with sites() first")
        tokens = tuple(tokens_BT.shape)
        handles = [
            self._register(site, hook, waiting, tokens, stop=stop) for site, hook in hooks.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if waiting:
            raise UserError(f"site {min(waiting)!r}: the forward pass never runs this module")

    @overload
    def capture(self, text: str, sites: str) -> Float[Tensor, "T D"]: ...

    @overload
    def capture(self, text: list[str] | tuple[str, ...], sites: str) -> list[Tensor]: ...

    @overload
    def capture(
        self,
        text: Int[Tensor, "B T"] | list[list[int]],
        sites: str,
        *,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]: ...

    @overload
    def capture(
        self,
        text: Int[Tensor, "B T"] | list[list[int]] | str | list[str] | tuple[str, ...],
        sites: list[str] | tuple[str, ...],
        *,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
    ) -> dict[str, Any]: ...

    def capture(
        self,
        text: Int[Tensor, "B T"] | str | Sequence[str] | Sequence[Sequence[int]],
        sites: str | Sequence[str],
        *,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
    ) -> Any:
        """Activations at sites, in the model's precision, from one forward pass that stops early.

        Copies: models that add in place do not change them afterwards. Of a text, the first token
        is BOS where the tokenizer has one (see `tokens`), on which SAEs are not trained.

        Args:
            text: a text, for activations [T, D]; a list of texts, for a list of them; or token ids
                [B, T] (a tensor, or lists of one length), for [B, T, D].
            sites: one site (or pattern, or alias, that is one), for the activations themselves; a
                list of them, for a mapping from every site to its activations.

        Raises:
            UserError: as `sites`, `tokens` and `run`; or if one pattern selects several sites.
        """
        names = self.sites(sites)
        if isinstance(sites, str) and len(names) > 1:
            raise UserError(
                f"{sites!r} is {len(names)} sites ({names[0]}, …); give [{sites!r}] for a mapping "
                "with all of them, or name one"
            )
        captured: dict[str, Any]
        if isinstance(text, str):
            captured = {site: x_1TD[0] for site, x_1TD in self._captured(self.tokens(text), names)}
        elif isinstance(text, Sequence) and all(isinstance(part, str) for part in text):
            each = [self.capture(str(part), names) for part in text]
            captured = {site: [sites_of[site] for sites_of in each] for site in names}
        else:
            captured = dict(self._captured(self._checked(text), names, attention_mask))
        return captured[names[0]] if isinstance(sites, str) else captured

    def tokens(self, text: str) -> Int[Tensor, "1 T"]:
        """The token ids of a text as a document is read in training: after one BOS, where the
        tokenizer has one, whether or not the text brings its own (`saeworks.lm.tokenise`).

        Raises:
            UserError: if the model has no tokenizer, or the text is empty.
        """
        if self.tokenizer is None:
            raise UserError(f"model {self.name!r} has no tokenizer; give token ids [B, T]")
        where = "none" if self.bos_id is None else "document"
        packing = Packing(self.max_context, where, self.bos_id, self.pad_id or 0, True, 0)
        (ids,) = Tokeniser(self.tokenizer, packing, "the text")([text])
        if not len(ids):
            raise UserError("the text is empty; give at least one token")
        return torch.from_numpy(ids.astype("int64"))[None]

    def _captured(
        self, tokens_BT: Tensor, sites: Sequence[str], attention_mask: Tensor | None = None
    ) -> Iterable[tuple[str, Tensor]]:
        captured: dict[str, Tensor] = {}

        def keep(site: str) -> Hook:
            return lambda x_BTD: captured.update({site: x_BTD.clone()})

        self.run(tokens_BT, {site: keep(site) for site in sites}, attention_mask=attention_mask)
        return captured.items()

    def cross_entropy(
        self,
        text: Int[Tensor, "B T"] | str,
        hooks: Mapping[str, Hook] = _NO_HOOKS,
        *,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "*batch predicted"]:
        """−log p(token t+1 | tokens ≤ t) in nats, for every predicted token: [B, T−1], of a text
        [T−1] (see `tokens`).

        Predictions of padding are in it too; leave them out by the batch's `document`.
        """
        tokens_BT = self.tokens(text) if isinstance(text, str) else self._checked(text)
        logits_BTV = self.run(tokens_BT, hooks, logits=True, attention_mask=attention_mask)
        assert logits_BTV is not None
        nats_BT = next_token_nats(logits_BTV, tokens_BT)
        return nats_BT[0] if isinstance(text, str) else nats_BT

    def _checked(self, tokens: Any) -> Int[Tensor, "B T"]:
        """Token ids that the model takes, int64. Those on another device are taken at their word:
        to look at them would be to wait for it."""
        try:
            tokens_BT = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{_kind(tokens)} is no tensor of token ids; {_IDS}") from None
        whole = not (tokens_BT.is_floating_point() or tokens_BT.is_complex())
        if not whole or tokens_BT.dtype == torch.bool or tokens_BT.dim() != 2:
            given = f"{list(tokens_BT.shape)} of {str(tokens_BT.dtype).removeprefix('torch.')}"
            raise UserError(f"a tensor {given} is no token ids; {_IDS}")
        if not tokens_BT.numel():
            raise UserError(f"a tensor {list(tokens_BT.shape)} has no tokens; {_IDS}")
        length = tokens_BT.shape[1]
        if length > self.max_context:
            raise UserError(
                f"a sequence of {length} tokens is longer than the {self.max_context} of model "
                f"{self.name!r}; use a shorter context"
            )
        if tokens_BT.device.type == "cpu":
            low, high = (int(end) for end in tokens_BT.aminmax())
            if low < 0 or high >= self.vocabulary:
                raise UserError(
                    f"token {low if low < 0 else high} is outside the vocabulary of "
                    f"{self.vocabulary} of model {self.name!r}; tokenizer and model do not belong "
                    "together, or padding has an id of its own"
                )
        return tokens_BT.long()

    def _register(
        self,
        site: str,
        hook: Hook,
        waiting: set[str],
        tokens: tuple[int, ...],
        *,
        stop: bool,
    ) -> Any:
        module = self._sites.module(site)

        thread = threading.get_ident()

        def apply(x: Any) -> Tensor | None:
            if threading.get_ident() != thread:
                return None  # another thread's pass through the same module
            if site not in waiting:
                raise UserError(f"site {site!r}: its module runs more than once in one pass")
            if not is_site(x, tokens):
                raise UserError(
                    f"site {site!r} cannot be used: {shape_reason(x, tokens)}; choose another, "
                    "such as a block's output (*@resid)"
                )
            replacement = hook(x)
            waiting.discard(site)
            if stop and not waiting:
                raise _Stop
            return None if replacement is None else _fitting(site, x, replacement)

        if not site.endswith(IN):

            def after(_module: nn.Module, _args: Any, output: Any) -> Any:
                new = apply(first_tensor(output))
                if new is None:
                    return None
                if isinstance(output, list):
                    return [new, *output[1:]]
                return (new, *output[1:]) if isinstance(output, tuple) else new

            return module.register_forward_hook(after)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key = input_key(args, kwargs)
            new = apply(None if key is None else args[0] if args else kwargs[str(key)])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, str(key): new})

        return module.register_forward_pre_hook(before, with_kwargs=True)


_IDS = "give whole numbers [B, T], such as lm.tokens(text)"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _fitting(site: str, x_BTD: Tensor, replacement: Any) -> Tensor:
    if not isinstance(replacement, Tensor):
        raise UserError(
            f"the replacement at site {site!r} is {_kind(replacement)}; give a tensor "
            f"{list(x_BTD.shape)}"
        )
    if replacement.shape != x_BTD.shape:
        raise UserError(
            f"the replacement at site {site!r} has shape {list(replacement.shape)}, "
            f"not {list(x_BTD.shape)}"
        )
    return replacement.to(x_BTD)


def next_token_nats(
    logits_BTV: Float[Tensor, "B T V"],
    tokens_BT: Int[Tensor, "B T"],
    rows: int = 4096,
) -> Float[Tensor, "B T-1"]:
    """−log softmax(logits_t)[token_{t+1}] in nats, in float32.

    `rows` positions at a time, so that no float32 copy of all the logits exists at once.
    """
    tokens_BT = tokens_BT.to(logits_BTV.device, torch.int64)
    flat = logits_BTV.flatten(0, 1)
    target = tokens_BT.roll(-1, dims=1).flatten()  # the last column's is meaningless, and dropped
    parts = [
        F.cross_entropy(flat[i : i + rows].float(), target[i : i + rows], reduction="none")
        for i in range(0, len(flat), rows)
    ]
    return torch.cat(parts).view(tokens_BT.shape)[:, :-1]
