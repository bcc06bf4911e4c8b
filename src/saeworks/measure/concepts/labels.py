"""Labels of tokens from any source: the embedded grammar, rules, a file of one's own, the data sets
of the `sae-probes` package.

The grammar and the rules label the held-out tokens of the suites' own text. A file and the data
sets bring texts of their own, each of which goes through the model alone, behind its BOS.

Shapes: N kept tokens, S sequences of T tokens.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saeworks.config import TextConfig
from saeworks.errors import UserError, one_line
from saeworks.files.access import open_regular, parse_json, what_is
from saeworks.lm.model import LanguageModel
from saeworks.lm.packing import Packing, TokenBatch
from saeworks.lm.tokenise import Tokeniser
from saeworks.measure.concepts import rules
from saeworks.measure.concepts.probe_texts import PACKAGE, ProbeTexts, data_folder, probe_texts
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import ConceptName, Truth, by_document, truth_of
from saeworks.measure.studies.pieces import Pieces

AUTO, EMBEDDED, RULES = "auto", "embedded", "rules"
SOURCES = f"auto, embedded, rules, a .jsonl file, {PACKAGE} or {PACKAGE}/PATTERN"

_OPTION = "--labels"


@dataclass(frozen=True)
class LabelledTokens:
    """Tokens and their labels.

    Attributes:
        name: of the source, as in a file's name.
        held_out: the tokens.
        truth: their concepts.
    """

    name: str
    held_out: HeldOut
    truth: Truth


def source_of(labels: str, text: TextConfig) -> str:
    """`labels`, with `auto` replaced: the grammar where the text is the embedded one, else rules.

    Raises:
        UserError: if it is no source.
    """
    if labels == AUTO:
        return EMBEDDED if text.source == "embedded" else RULES
    is_file = labels.lower().endswith((".jsonl", ".json"))
    if labels in (EMBEDDED, RULES) or is_file or labels.split("/", maxsplit=1)[0] == PACKAGE:
        return labels
    raise UserError(f"{_OPTION} {labels!r} is no source of labels; give {SOURCES}")


def check_source(labels: str) -> None:
    """Before anything long: refuse a source that is unknown, a file that is not there, a package
    that is not installed.

    Raises:
        UserError: if it is one of these.
    """
    source = source_of(labels, TextConfig())
    if source.split("/")[0] == PACKAGE:
        data_folder()
    elif source not in (EMBEDDED, RULES):
        check_file(Path(source))


def token_labels(
    source: str, text: TextConfig, seed: int, lm: LanguageModel, held_out: HeldOut
) -> Truth:
    """The concepts of held-out tokens of the suites' own text.

    Args:
        source: `auto`, `embedded` or `rules`.
        text: which the tokens are of, generated with `seed` if it is the embedded one.

    Raises:
        UserError: if the source is unknown or labels other texts, or does not fit the tokens.
    """
    source = source_of(source, text)
    if source == EMBEDDED:
        return truth_of(text, seed, lm, held_out, f"{_OPTION} {EMBEDDED}")
    if source == RULES:
        return _by_rules(lm, held_out)
    raise UserError(
        f"{_OPTION} {source}: it labels texts of its own, not the held-out tokens of the suites; "
        f"give {EMBEDDED} or {RULES}"
    )


def labelled(
    source: str,
    text: TextConfig,
    seed: int,
    lm: LanguageModel,
    held_out: HeldOut,
    packing: Packing,
    texts: int,
) -> LabelledTokens:
    """Tokens with labels from any source.

    Args:
        held_out: of the suites' text, where the source labels those.
        packing: of the suites' text: where BOS goes and which tokens are left out.
        texts: of each data set of `sae-probes`, at most.

    Raises:
        UserError: as `token_labels`, or if a file cannot be read, or the package is missing.
    """
    source = source_of(source, text)
    if source in (EMBEDDED, RULES):
        return LabelledTokens(source, held_out, token_labels(source, text, seed, lm, held_out))
    if source.split("/")[0] == PACKAGE:
        asked = probe_texts(source.partition("/")[2], texts, seed)
        return _of_texts(asked, lm, packing)
    return _of_file(Path(source), lm, packing, held_out.kept)


def _by_rules(lm: LanguageModel, held_out: HeldOut) -> Truth:
    pieces = Pieces(lm.tokenizer)
    tokens_X = held_out.tokens_NT.flatten()
    by_place: list[Sequence[ConceptName]] = [()] * len(tokens_X)
    for _, places in by_document(held_out, lm.bos_id):
        for place, of_token in zip(
            places.tolist(), rules.labels(pieces.window(tokens_X[places].tolist())), strict=True
        ):
            by_place[place] = of_token
    kept = held_out.keep_NT.flatten().nonzero()[:, 0].tolist()
    return Truth.of(rules.RULES, (by_place[place] for place in kept))


@dataclass(frozen=True)
class _Document:
    """A document's tokens (its BOS among them) and the concepts of each."""

    ids: list[int]
    concepts: list[list[ConceptName]]


def _of_file(path: Path, lm: LanguageModel, packing: Packing, tokens: int) -> LabelledTokens:
    """The documents of a file, as many as have `tokens` tokens to measure on."""
    every: list[_Document] = []
    total = 0
    reader = _Reader(lm, _alone(packing))
    for where, row in _rows(path):
        document = reader.document(row, where)
        every.append(document)
        total += len(document.ids)
        if total >= tokens:
            break
    if not every:
        raise UserError(f"labels {str(path)!r} hold no documents: the file is empty")
    concepts = sorted({c for document in every for of_token in document.concepts for c in of_token})
    if not concepts:
        raise UserError(
            f"labels {str(path)!r} label no token: every list of labels is empty; label some"
        )
    held_out, by_token = _sequences(every, packing, last_only=False)
    return LabelledTokens(_plain(path.stem), held_out, Truth.of(concepts, by_token))


def _plain(name: str) -> str:
    """A name that a file can have on every system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")


def _of_texts(asked: ProbeTexts, lm: LanguageModel, packing: Packing) -> LabelledTokens:
    """Texts whose label stands on their last token, each asked about in its own data set."""
    alone = _alone(packing)
    tokenise = Tokeniser(lm.tokenizer, alone, PACKAGE)
    rows = tokenise([text for text, _, _ in asked.texts])
    first = int(alone.bos != "none" and alone.bos_id is not None)
    every, set_N = [], []
    for (_, data_set, positive), row in zip(asked.texts, rows, strict=True):
        if len(row) <= first:
            continue  # nothing but BOS
        ids = row.tolist()
        ids = ids[:first] + ids[first:][-(packing.context - first) :]
        on_last = [(asked.names[data_set], "yes")] if positive else []
        every.append(_Document(ids, [[] for _ in ids[1:]] + [on_last]))
        set_N.append(data_set)
    held_out, by_token = _sequences(every, packing, last_only=True)
    truth = Truth.of([(name, "yes") for name in asked.names], by_token)
    sets = np.arange(len(asked.names))
    truth = replace(truth, set_N=np.array(set_N, np.int64), set_C=sets)
    return LabelledTokens(_plain(asked.source), held_out, truth)


def _alone(packing: Packing) -> Packing:
    """The packing of texts that stand alone: BOS before each, where the suites' text has any."""
    return replace(packing, bos="none" if packing.bos == "none" else "document")


def _sequences(
    every: Sequence[_Document], packing: Packing, last_only: bool
) -> tuple[HeldOut, list[list[ConceptName]]]:
    """Each document in sequences of its own, and the concepts of each kept token.

    Args:
        last_only: keep only the last token of each document.
    """
    bos = packing.bos_id if packing.bos != "none" else None
    rows = [
        (number, ids, concepts)
        for number, document in enumerate(every)
        for ids, concepts in _cuts(document, packing.context, bos)
    ]
    length = max(len(ids) for _, ids, _ in rows)
    tokens_ST = torch.full((len(rows), length), packing.pad_id)
    document_ST = torch.full_like(tokens_ST, -1)
    keep_ST = torch.zeros_like(tokens_ST, dtype=torch.bool)
    by_token: list[list[ConceptName]] = []
    for at, (number, ids, concepts) in enumerate(rows):
        tokens_ST[at, : len(ids)] = torch.tensor(ids)
        document_ST[at, : len(ids)] = number
        keep = [
            place >= packing.exclude_first
            and not (packing.exclude_bos and token == packing.bos_id)
            and not (last_only and place < len(ids) - 1)
            for place, token in enumerate(ids)
        ]
        keep[-1] |= last_only
        keep_ST[at, : len(ids)] = torch.tensor(keep)
        by_token += [of_token for of_token, kept in zip(concepts, keep, strict=True) if kept]
    position_ST = torch.arange(length).expand_as(tokens_ST)
    batch = TokenBatch(tokens_ST, document_ST, position_ST, keep_ST)
    return HeldOut.take(iter([batch]), len(by_token)), by_token


def _cuts(
    document: _Document, context: int, bos: int | None
) -> Iterator[tuple[list[int], list[list[ConceptName]]]]:
    """A document in pieces no longer than the context, each behind the BOS of the first."""
    ids, concepts = document.ids, document.concepts
    first = int(bool(ids) and ids[0] == bos)
    step = context - first
    for start in range(first, max(len(ids), first + 1), step):
        part = slice(start, start + step)
        yield ids[:first] + ids[part], concepts[:first] + concepts[part]


class _Reader:
    """Lines of a file of labels → documents."""

    def __init__(self, lm: LanguageModel, packing: Packing) -> None:
        self.backend: Any = getattr(lm.tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise UserError(
                f"{_OPTION}: the tokenizer of {lm.name} does not say where in a text its tokens "
                "stand, so a file's labels cannot be put on them; use a model with a fast "
                "tokenizer, or --labels rules"
            )
        self.backend.no_truncation()
        self.backend.no_padding()
        self.bos = packing.bos_id if packing.bos != "none" else None

    def document(self, row: Any, where: str) -> _Document:
        """One document.

        Raises:
            UserError: if the line is not of a known form, or its labels do not fit the tokens.
        """
        text, spans = _content(row, where)
        encoding = self.backend.encode(text, add_special_tokens=False)
        concepts: list[dict[ConceptName, None]] = [{} for _ in encoding.ids]
        bounds = [_stripped(text, *offsets) for offsets in encoding.offsets]
        for start, end, concept in spans:
            for at in _covered(text, start, end, concept, bounds, where):
                concepts[at][concept] = None
        lists = [list(of_token) for of_token in concepts]
        if self.bos is None or encoding.ids[:1] == [self.bos]:
            return _Document(list(encoding.ids), lists)
        return _Document([self.bos, *encoding.ids], [[], *lists])


_Span = tuple[int, int, ConceptName]
_FORM = (
    '{"text": "…", "labels": [{"start": 4, "end": 7, "concept": "animal"}]} or '
    '{"tokens": ["The", " cat"], "labels": [[], ["animal"]]}'
)


def check_file(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        UserError: if it is not, or is no file.
    """
    if what_is(path) != "file":
        raise UserError(f"labels {str(path)!r}: there is no such file; give {SOURCES}")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The lines that are not blank, with their places for messages."""
    check_file(path)
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            where = f"labels {path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = parse_json(text) if text.strip() else None
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{where}: not valid JSON in UTF-8 ({one_line(error)}); mend or remove the line"
                ) from None
            if row is not None:
                yield where, row


def _content(row: Any, where: str) -> tuple[str, list[_Span]]:
    """A line's text and its labels as stretches of it."""
    if not isinstance(row, Mapping) or set(row) not in ({"text", "labels"}, {"tokens", "labels"}):
        raise UserError(f"{where}: not of a known form; write {_FORM}")
    labels = row["labels"]
    if not isinstance(labels, list):
        raise UserError(f"{where}: labels must be a list; write {_FORM}")
    if "text" in row:
        text = row["text"]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: text must be a string that is not empty; write {_FORM}")
        return text, [_span(label, text, where) for label in labels]
    tokens = row["tokens"]
    if not (isinstance(tokens, list) and tokens and all(isinstance(t, str) for t in tokens)):
        raise UserError(f"{where}: tokens must be a list of strings; write {_FORM}")
    if len(labels) != len(tokens):
        raise UserError(
            f"{where}: {len(labels)} lists of labels for {len(tokens)} tokens; give one for each, "
            "[] where nothing holds"
        )
    spans: list[_Span] = []
    place = 0
    for token, of_token in zip(tokens, labels, strict=True):
        if not isinstance(of_token, list):
            raise UserError(f"{where}: the labels of {token!r} must be a list; write {_FORM}")
        end = place + len(token)
        spans += [(place, end, _concept(name, where)) for name in of_token]
        place = end
    return "".join(tokens), spans


def _span(label: Any, text: str, where: str) -> _Span:
    if not isinstance(label, Mapping) or set(label) != {"start", "end", "concept"}:
        raise UserError(f"{where}: a label has start, end and concept; write {_FORM}")
    start, end = label["start"], label["end"]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (start, end))
    if not (whole and 0 <= start < end <= len(text)):
        raise UserError(
            f"{where}: the label {label['concept']!r} from {start!r} to {end!r} does not lie in "
            f"the text, which has {len(text)} characters; give 0 ≤ start < end ≤ {len(text)}"
        )
    return start, end, _concept(label["concept"], where)


def _concept(name: Any, where: str) -> ConceptName:
    """`concept` or `concept=value`; a concept without a value has the value `yes`."""
    concept, _, value = name.partition("=") if isinstance(name, str) else ("", "", "")
    if not concept.strip():
        raise UserError(
            f"{where}: {name!r} is no concept; give a name, or name=value as in number=plural"
        )
    return concept.strip(), value.strip() or "yes"


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's place without the white space around it; as it is where there is nothing else."""
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _covered(
    text: str,
    start: int,
    end: int,
    concept: ConceptName,
    bounds: Sequence[tuple[int, int]],
    where: str,
) -> list[int]:
    """The tokens that a stretch of the text holds, whole."""
    low, high = _stripped(text, start, end)
    touched = [at for at, (a, b) in enumerate(bounds) if a < high and b > low]
    name = "=".join(concept)
    if not touched:
        raise UserError(
            f"{where}: the label {name!r} from {start} to {end} does not fit the tokens: none "
            "stands there; widen or remove it"
        )
    first, last = bounds[touched[0]][0], max(bounds[at][1] for at in touched)
    if first < low or last > high:
        raise UserError(
            f"{where}: the label {name!r} from {start} to {end} ({text[start:end]!r}) does not fit "
            f"the tokens: it cuts {text[first:last]!r}; give {first} to {last}"
        )
    return touched
