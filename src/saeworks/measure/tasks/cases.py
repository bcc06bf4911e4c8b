"""Tasks: pairs of prompts, as token ids, that differ in one fact and so in the right answer.

Shapes: P prompts of a case, T tokens of each, V tokens of the vocabulary.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """A clean prompt beside its patched twin, as text.

    Attributes:
        clean_prefix, patch_prefix: what the model reads.
        clean_answer, patch_answer: what follows each, one token with the space before it.
        case: the name of its case.
        where: the place it is from, for messages.
    """

    clean_prefix: str
    patch_prefix: str
    clean_answer: str
    patch_answer: str
    case: str
    where: str = ""


@dataclass(frozen=True)
class Case:
    """Prompts of one template: position t means the same in all of them.

    The mean of a case's clean *and* patch prompts at a position holds nothing of the answer; that
    of its clean prompts alone may, since a case can have one number or one order of names.

    Attributes:
        name: of the template.
        clean_PT, patch_PT: token ids, BOS first where the tokenizer has one.
        clean_answer_P, patch_answer_P: the token that is right after each.
    """

    name: str
    clean_PT: Int[Tensor, "P T"]
    patch_PT: Int[Tensor, "P T"]
    clean_answer_P: Int[Tensor, " P"]
    patch_answer_P: Int[Tensor, " P"]

    def __len__(self) -> int:
        return len(self.clean_PT)


@dataclass(frozen=True)
class Task:
    """Prompts on which a model can be right or wrong.

    Attributes:
        name: fit for a file's name.
        cases: in the order of their names.
        source: what the prompts are from, in words.
        left_out: kind of words (or lines) → how many did not fit the tokenizer.
    """

    name: str
    cases: tuple[Case, ...]
    source: str
    left_out: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def prompts(self) -> int:
        """Pairs of prompts in all cases."""
        return sum(len(case) for case in self.cases)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all token ids: the same prompts have the same."""
        hashed = hashlib.sha256()
        for case in self.cases:
            hashed.update(f"{case.name}\n{list(case.clean_PT.shape)}\n".encode())
            parts = (case.clean_PT, case.patch_PT, case.clean_answer_P, case.patch_answer_P)
            for ids in parts:
                hashed.update(ids.to(torch.int64).numpy().tobytes())
        return hashed.hexdigest()

    @staticmethod
    def difference(logits_PV: Float[Tensor, "P V"], case: Case) -> Float[Tensor, " P"]:
        """m = logit(clean answer) − logit(patch answer), of the logits at the last position."""
        answers_2P = torch.stack((case.clean_answer_P, case.patch_answer_P)).to(logits_PV.device)
        clean_P, patch_P = logits_PV.gather(1, answers_2P.T).unbind(dim=1)
        return clean_P - patch_P


def token_ids(lm: LanguageModel, text: str) -> list[int]:
    """The ids of a text, after BOS where the tokenizer has one."""
    ids: list[int] = lm.tokens(text)[0].tolist()
    return ids


def unknown(lm: LanguageModel, ids: list[int]) -> bool:
    """Whether one of the tokens, but for the BOS, stands for text that the tokenizer does not
    know."""
    return getattr(lm.tokenizer, "unk_token_id", None) in ids[lm.bos_id is not None :]


def answer_id(lm: LanguageModel, prefix: str, ids: list[int], answer: str) -> int | None:
    """The one token that follows the prefix's ids in `prefix + answer`; None where the tokenizer
    makes several of the answer, or cuts the prefix otherwise before it."""
    whole = token_ids(lm, prefix + answer)
    return whole[-1] if whole[:-1] == ids and not unknown(lm, whole) else None


def task_of(
    name: str,
    prompts: Iterable[Prompt],
    lm: LanguageModel,
    source: str,
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> Task:
    """The prompts as token ids, by case. One with prompts of several lengths becomes a case for
    each, named after its number of tokens.

    Raises:
        UserError: for the first prompt with an answer that is no single token, with two answers
            that are the same, or with prefixes of unequal length or of more tokens than the model
            takes.
    """
    rows: dict[tuple[str, int], list[_Row]] = {}
    for prompt in prompts:
        row = _row(prompt, lm)
        rows.setdefault((prompt.case, len(row[0])), []).append(row)
    if not rows:
        raise UserError(f"{source} has no prompts; give at least one line")
    lengths = Counter(case for case, _ in rows)
    cases = []
    for (case, length), of_case in sorted(rows.items()):
        clean, patch, clean_answer, patch_answer = zip(*of_case, strict=True)
        cases.append(
            Case(
                case if lengths[case] == 1 else f"{case} ({length} tokens)",
                torch.tensor(clean),
                torch.tensor(patch),
                torch.tensor(clean_answer),
                torch.tensor(patch_answer),
            )
        )
    return Task(name, tuple(cases), source, left_out)


def fits(prompt: Prompt, lm: LanguageModel) -> bool:
    """Whether `task_of` takes a prompt."""
    try:
        _row(prompt, lm)
    except UserError:
        return False
    return True


_Row = tuple[list[int], list[int], int, int]


def _row(prompt: Prompt, lm: LanguageModel) -> _Row:
    where = prompt.where
    clean = _prefix_ids(lm, prompt.clean_prefix, where)
    patch = _prefix_ids(lm, prompt.patch_prefix, where)
    if len(clean) != len(patch):
        raise UserError(
            f"{where}: clean_prefix has {len(clean)} tokens and patch_prefix {len(patch)}; give "
            "both the same number, since a position must mean the same in both"
        )
    clean_answer = _answer(lm, prompt.clean_prefix, clean, prompt.clean_answer, where)
    patch_answer = _answer(lm, prompt.patch_prefix, patch, prompt.patch_answer, where)
    if clean_answer == patch_answer:
        raise UserError(
            f"{where}: both answers are {prompt.clean_answer!r}; they must differ, or there is no "
            "difference to explain"
        )
    return clean, patch, clean_answer, patch_answer


def _prefix_ids(lm: LanguageModel, prefix: str, where: str) -> list[int]:
    ids = token_ids(lm, prefix)
    if len(ids) > lm.max_context:
        raise UserError(
            f"{where}: a prefix has {len(ids)} tokens, and {lm.name} takes {lm.max_context}; "
            "shorten it"
        )
    if unknown(lm, ids):
        raise UserError(
            f"{where}: the prefix {prefix!r} has words that the tokenizer of {lm.name} does not "
            "know; use others"
        )
    return ids


def _answer(lm: LanguageModel, prefix: str, ids: list[int], answer: str, where: str) -> int:
    token = answer_id(lm, prefix, ids, answer)
    if token is not None:
        return token
    cut = lm.tokenizer.convert_ids_to_tokens(token_ids(lm, prefix + answer)[-4:])
    raise UserError(
        f"{where}: the answer {answer!r} is no single token of {lm.name} after its prefix (which "
        f"ends in {' '.join(map(repr, cut))}); choose an answer that is one, with its space"
    )
