"""The wanted columns, ids and chats, folders of files, places to go on from, bounded memory."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.toy_text import BOS, WORDS, texts, tokenizer, write_txt
from saeworks.config import TextConfig
from saeworks.errors import UserError
from saeworks.lm import text_files
from saeworks.lm.documents import documents, open_source
from saeworks.lm.text import Corpus


@pytest.fixture(autouse=True)
def quiet_datasets() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def config(source: object, **options: Any) -> TextConfig:
    return TextConfig(source=str(source), **options)


def read(source: object, **options: Any) -> list[Any]:
    return [document.text for document in documents(config(source, **options), 0)]


def refusal(source: object, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_media(path: Path, kind: str, documents: list[str]) -> None:
    """Parquet as `datasets` writes it, a broken file of sound or a picture beside each text."""
    broken = [{"bytes": b"\x89PNG\r\n\x1a\n" + b"0" * 40, "path": None}] * len(documents)
    table = pa.table({"media": pa.array(broken), "text": documents})
    about = {"info": {"features": {"media": {"_type": kind}, "text": _string()}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def _string() -> dict[str, str]:
    return {"dtype": "string", "_type": "Value"}


@pytest.mark.parametrize("kind", ["Audio", "Image"])
def test_other_columns_are_not_decoded(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_media(folder / "a.parquet", kind, texts(5))
    assert read(folder) == read(folder / "a.parquet") == texts(5)
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: all\n  data_files: '*'\n---\n")
    for streaming in (False, True):  # with that card `datasets` reads it
        assert read(folder, streaming=streaming) == texts(5)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "card"])
def test_token_ids_are_read(kind: str, tmp_path: Path) -> None:
    words = [WORDS[:5], WORDS[5:30], WORDS[30:60]]
    rows = [[WORDS.index(word) + 2 for word in some] for some in words]
    table = datasets.Dataset.from_dict({"input_ids": rows})
    source = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        write_lines(source, [{"input_ids": row} for row in rows])
    elif kind == "saved":
        table.save_to_disk(source)
    elif kind == "parquet":
        table.to_parquet(source)
    else:
        source.mkdir()
        table.to_parquet(source / "a.parquet")
        (source / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: '*'\n---")
    lm = tokenizer()
    options: dict[str, Any] = {"column": "input_ids", "context": 4, "held_out": 0.3}
    made = Corpus(config(source, **options), lm, bos_id=BOS, max_context=16, seed=0)
    same = write_lines(tmp_path / "text.jsonl", [{"input_ids": " ".join(some)} for some in words])
    text = Corpus(config(same, **options), lm, bos_id=BOS, max_context=16, seed=0)
    for split in ("train", "held_out"):
        assert made.describe()["tokens"][split] > 0
    both = [
        sorted(
            int(t)
            for split in ("train", "held_out")
            for b in corpus.stream(split, 1, epochs=1)
            for t in b.tokens[b.document >= 0]
        )
        for corpus in (made, text)
    ]
    assert both[0] == both[1]


def test_token_ids_of_another_model_are_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": [2, 3]}, {"text": [5, 402]}])
    with pytest.raises(UserError, match=r"a\.jsonl' holds the token id 402, .*ids 0 to 401"):
        Corpus(config(source), tokenizer(), bos_id=BOS, max_context=200, seed=0)


CHAT = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
SHARED = [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "w2"}]


@pytest.mark.parametrize("chat", [CHAT, SHARED])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "columns"])
def test_chats_are_read(chat: list[Any], kind: str, tmp_path: Path) -> None:
    value: Any = chat
    if kind == "columns":
        value = {key: [message[key] for message in chat] for key in chat[0]}
    if kind == "parquet":
        datasets.Dataset.from_list([{"messages": value}]).to_parquet(tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet", column="messages") == [CHAT]
    else:
        assert read(write_lines(tmp_path / "a.jsonl", [{"m": value}]), column="m") == [CHAT]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2.5], "holds a list of float and int, not text, token ids or a chat"),
        ([True, False], "holds a list of bool"),
        ([1, None], "holds a list of NoneType and int"),
        ([10**400], "holds a number of 1329 bits, which is no token's id"),
        ({"a": 1}, "holds dict, not text"),
        (["a"], "holds a list of str"),
        ([{"content": "a"}], "holds a list of mappings without 'role'"),
        ([{"role": 3}], "holds a list of mappings without 'role'"),
    ],
)
def test_other_values_are_refused(value: Any, message: str, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": "w1"}, {"text": value}])
    assert f"line 2: column 'text' {message}" in refusal(source)


def test_a_folder_of_txt_files_has_a_document_per_file(tmp_path: Path) -> None:
    whole = ["one line\n\nand another", "two\nlines", "w1 w2"]
    (tmp_path / "sub").mkdir()
    for name, text in zip(("a.txt", "b.txt", "sub/c.txt"), whole, strict=True):
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "README.md").write_text("About these.")
    (tmp_path / "LICENSE").write_text("Free.")
    (tmp_path / ".hidden.txt").write_text("not this")
    assert read(tmp_path) == whole
    assert read(tmp_path, streaming=True) == whole
    write_txt(tmp_path / "d.txt", ["w3", "w4"])
    assert read(tmp_path) == [*whole[:2], "w3", "w4", whole[2]]
    assert read(tmp_path, separator="") == [
        "one line",
        "and another",
        *whole[1:2],
        *read(tmp_path / "d.txt", separator="---"),
        whole[2],
    ]


def test_a_folder_of_several_kinds_is_read_whole(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "w1"}])
    pq.write_table(pa.table({"text": ["w2", "w3"]}), tmp_path / "b.parquet")
    with gzip.open(tmp_path / "c.txt.gz", "wt") as file:
        file.write("w4\n<|endoftext|>\nw5\n")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "w6"}\n')
    assert read(tmp_path) == ["w1", "w2", "w3", "w4", "w5", "w6"]
    assert read(tmp_path / "c.txt.gz") == ["w4", "w5"]
    (tmp_path / "c.txt.gz").rename(tmp_path / "C.TXT.GZ")
    assert read(tmp_path / "C.TXT.GZ") == ["w4", "w5"]
    (tmp_path / "e.csv").write_text("text\nw7\n")
    assert "'e.csv' lies among .txt files and is not read" in refusal(tmp_path)


def test_splits_are_named_as_datasets_names_them(tmp_path: Path) -> None:
    write_txt(tmp_path / "my_train-0.txt", ["w1"])
    write_txt(tmp_path / "my_valid.txt", ["w2"])
    assert read(tmp_path) == ["w1"] and read(tmp_path, split="validation") == ["w2"]
    assert "its files are of 'train', 'validation'" in refusal(tmp_path, split="test")
    write_txt(tmp_path / "other.txt", ["w3"])
    assert "'my_train-0.txt' is named as of the split 'train' and 'other.txt' as of none" in (
        refusal(tmp_path)
    )


def test_a_saved_dataset_of_several_splits(tmp_path: Path) -> None:
    some = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(some).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d") == ["train"] and read(tmp_path / "d", split="test") == ["test"]
    assert "split 'dev'" in refusal(tmp_path / "d", split="dev")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines(end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(end.join(["\ufeffw1", "w2", "<|endoftext|>", "w3", ""]).encode())
    assert read(path) == ["w1\nw2", "w3"]


def test_files_that_are_no_files_are_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        os.mkfifo(tmp_path / name)
        assert "is not a regular file" in refusal(tmp_path / name)
    assert "is not a regular file" in refusal(tmp_path)
    assert "is not a regular file" in refusal("/dev/zero")
    assert "no such file" in refusal("x" * 300 + ".txt")
    assert "no such folder" in refusal("/" + "x" * 300)


def test_hostile_values_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep, huge = tmp_path / "deep.jsonl", tmp_path / "huge.jsonl"
    deep.write_text('{"text": "w1"}\n{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert "line 2: not valid JSON" in refusal(deep)
    huge.write_text('{"text": [' + "9" * 5000 + "]}\n")
    assert "line 1: not valid JSON" in refusal(huge)
    offsets, data = pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"ab\xff\xfe")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    pq.write_table(pa.table({"text": bad}), tmp_path / "bad.parquet")
    assert "from row 1: not UTF-8" in refusal(tmp_path / "bad.parquet")
    (tmp_path / "bad.txt").write_bytes(b"w1\nw2\n\xff\n")
    assert "line 3: not UTF-8" in refusal(tmp_path / "bad.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"w1 w2 " * 1000)[:-20])
    assert "cut.txt.gz' could not be read" in refusal(tmp_path / "cut.txt.gz")
    (tmp_path / "no.txt.gz").write_bytes(b"w1")
    assert "no.txt.gz' could not be read" in refusal(tmp_path / "no.txt.gz")
    monkeypatch.setattr(text_files, "LIMIT", 50)
    write_txt(tmp_path / "long.txt", ["w1", "w2\n" * 30])
    assert re.search(
        r"long.txt', from line 3 holds a document of more", refusal(tmp_path / "long.txt")
    )
    write_lines(tmp_path / "long.jsonl", [{"text": "w1 " * 30}])
    assert "holds a document of more" in refusal(tmp_path / "long.jsonl")


SOURCES = ["txt", "txt.gz", "jsonl", "parquet", "folder", "saved", "card"]


def write_source(kind: str, folder: Path, some: list[str]) -> Path:
    path = folder / f"a.{kind}"
    if kind in ("txt", "jsonl", "parquet"):
        if kind == "txt":
            return write_txt(path, some)
        if kind == "jsonl":
            return write_lines(path, [{"text": text} for text in some])
        pq.write_table(pa.table({"text": some}), path, row_group_size=4)
    elif kind == "txt.gz":
        path.write_bytes(gzip.compress("\n<|endoftext|>\n".join(some).encode()))
    elif kind == "saved":
        datasets.Dataset.from_dict({"text": some}).save_to_disk(path, num_shards=2)
    else:
        path.mkdir()
        for at, part in enumerate(("parquet", "parquet") if kind == "card" else ("jsonl", "txt")):
            half = some[at * len(some) // 2 : (at + 1) * len(some) // 2]
            write_source(part, path, half).rename(path / f"{at}.{part}")
        if kind == "card":
            card = "---\nconfigs:\n- config_name: x\n  data_files: '*.parquet'\n---\n"
            (path / "README.md").write_text(card)
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_every_place_can_be_gone_on_from_again_and_again(kind: str, tmp_path: Path) -> None:
    some = texts(11)
    source = config(write_source(kind, tmp_path, some), streaming=True)
    for first in range(len(some) + 1):
        reader = open_source(source)
        got = [next(reader).text for _ in range(first)]
        for step in (0, 1, 0, 2):  # each from the place of the one before
            reader = open_source(source, json.loads(json.dumps(reader.position())))
            got += [document.text for _, document in zip(range(step), reader, strict=False)]
        assert got + [document.text for document in reader] == some


def test_what_is_read_at_once_is_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["w1 " * 100] * 1000}), path)
    monkeypatch.setattr(text_files, "_BYTES", 3000)
    rows: list[int] = []
    inner = text_files._batches

    def counted(*args: Any) -> Any:
        for batch in inner(*args):
            rows.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(text_files, "_batches", counted)
    pq.write_table(pa.table({"text": [f"{i} " * 100 for i in range(1000)]}), path)
    assert len(read(path)) == 1000 and max(rows) < 20


MEMORY = """
from helpers.toy_text import tokenizer
from saeworks.config import TextConfig
from saeworks.lm.text import Corpus
from saeworks.cost.machine import peak_bytes

def read(source, streaming):
    config = TextConfig(source=source, streaming=streaming, context=16, held_out=0.3)
    made = Corpus(config, tokenizer(), bos_id=0, max_context=64, seed=0)
    for split in ("train", "held_out"):
        next(made.stream(split, 4))
    return peak_bytes() / 2**20

for streaming in (True, False):
    read("small.txt", streaming)
before = read("small.txt", True)
print(*(read("large.txt", streaming) - before for streaming in (True, False)))
"""


def test_the_memory_of_a_large_document_is_bounded(tmp_path: Path) -> None:
    """Tokenised as a whole, 6 MB of text take 0.6 GB."""
    megabytes, word = 6, "w" * 7 + " "
    write_txt(tmp_path / "small.txt", texts(20))
    write_txt(tmp_path / "large.txt", [*texts(20), word * (megabytes * 2**20 // len(word))])
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    streamed, held = map(float, done.stdout.split())
    assert max(streamed, held) < 20 * megabytes, (streamed, held)
