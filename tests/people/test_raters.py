"""Answers on disk: nothing that was saved is lost, and nothing that was not is believed."""

import os
from pathlib import Path

import pytest

from helpers.studied import judge, studied
from saeworks.errors import UserError
from saeworks.people.config import HumanStudyConfig
from saeworks.people.raters import Answer, open_answers, rater_file, raters, read_answers
from saeworks.people.study import make_study


def test_answers_are_there_again(unanswered) -> None:
    folder, shown = unanswered
    with open_answers(folder, shown, "ann") as answers:
        answers.save(Answer(3, "yes", "a name: “Lily”", 2.0))
        answers.save(Answer(5, "no", seconds=4.0))
        answers.save(Answer(3, "maybe", seconds=9.0))
        assert answers.last() == 3
        assert answers.seconds_left(len(shown.latents)) == 6.5 * 14
    with open_answers(folder, shown, "ann") as answers:
        assert [(p, a.verdict) for p, a in answers.answers.items()] == [(5, "no"), (3, "maybe")]
        answers.save(Answer(3, None))
        assert answers.last() == 5 and answers.answers[5].at
    with open_answers(folder, shown, "ben") as answers:
        assert answers.last() is None and answers.seconds_left(8) is None
    assert raters(folder) == ["ann", "ben"]


def test_a_line_that_is_cut_off_is_dropped(unanswered) -> None:
    folder, shown = unanswered
    judge(folder, shown, "ann", lambda drawn: "yes")
    file = rater_file(folder, "ann")
    whole = file.read_bytes()
    for end in (len(whole) - 1, len(whole) - 30):
        file.write_bytes(whole[:end])
        answers, cut = read_answers(folder, shown, "ann")
        assert cut and len(answers) == len(shown.latents) - 1
    with open_answers(folder, shown, "ann") as opened:
        assert opened.dropped
        opened.save(Answer(len(shown.latents) - 1, "no"))
    answers, cut = read_answers(folder, shown, "ann")
    assert not cut and len(answers) == len(shown.latents)
    file.write_bytes(whole[:20])  # amid the head, in which no answer is
    with open_answers(folder, shown, "ann") as opened:
        assert not opened.answers
        opened.save(Answer(0, "no"))
    assert len(read_answers(folder, shown, "ann")[0]) == 1


def test_a_broken_file_is_refused(unanswered) -> None:
    folder, shown = unanswered
    judge(folder, shown, "ann", lambda drawn: "yes")
    file = rater_file(folder, "ann")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], "{\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"ann\.jsonl line 3.*restore the file"):
        read_answers(folder, shown, "ann")
    file.write_text("".join([*lines, lines[1].replace('"latent": 0', '"latent": 16')]))
    with pytest.raises(UserError, match="is of latent 16 and the study has 16"):
        read_answers(folder, shown, "ann")
    file.write_text("".join([*lines, lines[1].replace('"yes"', '"perhaps"')]))
    with pytest.raises(UserError, match="'verdict' = 'perhaps'"):
        read_answers(folder, shown, "ann")


def test_answers_to_another_study_are_refused(unanswered, tmp_path: Path) -> None:
    folder, shown = unanswered
    judge(folder, shown, "ann", lambda drawn: "yes")
    other = tmp_path / "other"
    another = make_study([studied(tmp_path / "third", seed=3)], other, HumanStudyConfig(latents=4))
    (other / "raters").mkdir()
    rater_file(folder, "ann").rename(rater_file(other, "ann"))
    with pytest.raises(UserError, match="has answers to another study than"):
        read_answers(other, another, "ann")


def test_one_process_writes_at_a_time(unanswered) -> None:
    folder, shown = unanswered
    with (
        open_answers(folder, shown, "ann"),
        pytest.raises(UserError, match="is in use by another"),
        open_answers(folder, shown, "ann"),
    ):
        pass


@pytest.mark.parametrize("name", ["", "../ann", "a/b", "-x", "a" * 65, "ann lee"])
def test_a_rater_whose_name_is_no_files(unanswered, name: str) -> None:
    with pytest.raises(UserError, match="a name of up to 64 letters"):
        rater_file(unanswered[0], name)


def test_a_rater_who_is_not_there(unanswered) -> None:
    folder, shown = unanswered
    judge(folder, shown, "ann", lambda drawn: "yes")
    with pytest.raises(UserError, match="has no answers of 'ben'; it has those of ann"):
        read_answers(folder, shown, "ben")


def test_a_full_disk_leaves_the_file_as_it_was(unanswered, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shown = unanswered
    with open_answers(folder, shown, "ann") as answers:
        answers.save(Answer(0, "yes"))
        before = rater_file(folder, "ann").read_bytes()
        written = os.write

        def half(descriptor: int, line: bytes) -> int:
            written(descriptor, line[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(UserError, match="could not save the answer"):
                answers.save(Answer(1, "no"))
        assert rater_file(folder, "ann").read_bytes() == before and list(answers.answers) == [0]
        answers.save(Answer(1, "no"))
    assert len(read_answers(folder, shown, "ann")[0]) == 2
