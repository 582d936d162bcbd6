"""Answers survive: on the disk at once, whole or not at all, each once; nobody else's file is written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigurationError, DiskFull
from latentd.preference.answers import AnswerFile, read_answers
from latentd.preference.study import Showing
from tests.disks import small_disk
from tests.unit.latentd.preference.studies import make_study


def test_answers_are_in_the_file_at_once_and_found_again(tmp_path: Path) -> None:
    study, path = make_study(tmp_path), tmp_path / "answers.csv"
    first, second, *_ = study.shown_to("anna")
    answers = AnswerFile(path, study)
    answers.add("anna", first, "a", 1.23456)
    answers.add("anna", first, "b", 2.0)  # a second click
    [found] = read_answers(path)
    assert (found.participant, found.task, found.a, found.b) == ("anna", 2, study.a, study.b)
    assert (found.picture, found.left, found.preferred, found.seconds) == (first.pair.name, first.left, "a", 1.235)
    answers.close()
    again = AnswerFile(path, study)
    assert (again.count, again.has("anna", first), again.has("anna", second), again.has("ben", first)) == (
        1,
        True,
        False,
        False,
    )
    again.add("ben", first, "b", 1.0)
    assert [each.participant for each in read_answers(path)] == ["anna", "ben"]
    again.close()


def test_a_line_that_was_cut_off_is_no_answer(tmp_path: Path) -> None:
    study, path = make_study(tmp_path), tmp_path / "answers.csv"
    first, second, *_ = study.shown_to("anna")
    answers = AnswerFile(path, study)
    answers.add("anna", first, "a", 1.0)
    whole = path.read_bytes()
    answers.add("anna", second, "a", 1.0)
    answers.close()
    for end in range(len(whole) + 1, path.stat().st_size, 7):
        torn = tmp_path / f"{end}.csv"
        torn.write_bytes(path.read_bytes()[:end])
        assert len(read_answers(torn)) == 1
        resumed = AnswerFile(torn, study)
        resumed.close()
        assert torn.read_bytes() == whole


def test_a_file_has_one_writer_and_one_study(tmp_path: Path) -> None:
    study, path = make_study(tmp_path), tmp_path / "answers.csv"
    answers = AnswerFile(path, study)
    with pytest.raises(ConfigurationError, match="another `latentd preference` writes it"):
        AnswerFile(path, study)
    answers.add("anna", study.shown_to("anna")[0], "a", 1.0)
    answers.close()
    with pytest.raises(ConfigurationError, match=r"has answers to --task 2 of .* by --seed 0; name another --out"):
        AnswerFile(path, replace(study, seed=1))


def test_what_is_no_file_of_answers_is_left_alone(tmp_path: Path) -> None:
    path, study = tmp_path / "mine.csv", make_study(tmp_path)
    for text in ("a,b\n1,2\n", "time\n", "no end"):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="is no file of answers"):
            AnswerFile(path, study)
        assert path.read_text() == text
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        AnswerFile(tmp_path / "gone" / "answers.csv", study)


def test_an_answer_that_has_no_room_is_refused_whole(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    showings = study.shown_to("anna")
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk / "answers.csv"
        answers = AnswerFile(path, study)
        fill(disk)
        with pytest.raises(DiskFull, match=r"can't be written: .*; choose again"):
            answer_often(answers, showings[0])
        assert len(read_answers(path)) == answers.count > 0
        assert path.read_bytes().endswith(b"\n")
        (disk / "filler").unlink()
        answers.add("anna", showings[0], "b", 1.0)
        assert read_answers(path)[-1].participant == "anna"
        answers.close()


def answer_often(answers: AnswerFile, showing: Showing) -> None:
    """Until the page that the file has is full."""
    for k in range(100):
        answers.add(f"person {k}", showing, "a", 1.0)


def fill(disk: Path) -> None:
    """Leave no page of the disk free."""
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize))
