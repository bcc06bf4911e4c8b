"""Files of prompts, from outside: each fault is one line with file and line number."""

import json
from pathlib import Path

import pytest

from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.choose import task

LINE = {
    "clean_prefix": "The horses near the table",
    "patch_prefix": "The horse near the table",
    "clean_answer": " are",
    "patch_answer": " is",
    "case": "plural",
}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load("embedded")


def written(folder: Path, *lines: object, name: str = "mine.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return file


def test_a_file_is_read_as_it_is_published(lm, tmp_path):
    other = LINE | {"clean_prefix": "The cows", "patch_prefix": "The cow"}
    file = written(tmp_path, LINE, "", other, LINE | {"case": "b"})
    drawn = task(str(file), lm, 10, 0)
    assert drawn.name == "mine" and drawn.source.startswith("mine.jsonl (")
    assert [case.name for case in drawn.cases] == ["b", "plural (3 tokens)", "plural (6 tokens)"]
    words = lm.tokenizer.convert_ids_to_tokens(drawn.cases[2].clean_PT[0])
    assert words == ["<|bos|>", "The", " horses", " near", " the", " table"]
    assert task(str(file), lm, 2, 0).prompts == 2
    assert task(str(file), lm, 2, 5).digest == task(str(file), lm, 2, 5).digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is a list; a line is an object with the texts clean_prefix"),
        ('{"a": 1e999999}', "line 2: clean_prefix is missing"),
        (LINE | {"note": "x"}, "line 2 has the key 'note'; .*and nothing else"),
        ({k: v for k, v in LINE.items() if k != "case"}, "line 2: case is missing"),
        (LINE | {"case": 3}, "line 2: case is no text"),
        (LINE | {"clean_answer": ""}, "line 2: clean_answer is empty"),
        (LINE | {"clean_answer": " are near"}, "line 2: the answer ' are near' is no single token"),
        (LINE | {"patch_prefix": "The horse"}, "line 2: clean_prefix has 6 tokens and patch_pref"),
        (LINE | {"patch_answer": " are"}, "line 2: both answers are ' are'"),
        (LINE | {"clean_prefix": "The zebras near"}, "line 2: the prefix .* does not know"),
        (LINE | {"case": "x" * 70_000}, "line 2: a file of prompts has at most"),
        ('{"case": "\\ud800"}', "line 2 is no JSON .it has a lone surrogate"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named(lm, tmp_path, line, message):
    file = written(tmp_path, LINE, line)
    with pytest.raises(UserError, match=message) as refusal:
        task(str(file), lm, 10, 0)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_file_that_is_no_file_of_prompts_is_refused(lm, tmp_path):
    with pytest.raises(UserError, match=r"mine\.jsonl .*has no prompts; give at least one line"):
        task(str(written(tmp_path)), lm, 10, 0)
    with pytest.raises(UserError, match="no task 'additions': it is none of ioi, greater_than, ag"):
        task("additions", lm, 10, 0)
    with pytest.raises(UserError, match=r"no task .*(Is a directory|regular file)"):
        task(str(tmp_path), lm, 10, 0)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="line 1 is no JSON"):
        task(str(tmp_path / "binary.jsonl"), lm, 10, 0)
    with pytest.raises(UserError, match="cannot be one of ioi"):
        task(str(written(tmp_path, LINE, name="ioi.jsonl")), lm, 10, 0)
