"""Answers as CSV: one line each, on the disk before the next pair is shown."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from core.errors import ConfigurationError, DiskFull, LatentdError
from latentd.preference.study import Method, Showing, Study


@dataclass(frozen=True, slots=True)
class Answer:
    """One line: who chose whose picture, and where that one stood."""

    time: str
    participant: str
    task: int
    a: str
    b: str
    seed: int
    picture: str
    left: Method
    preferred: Method
    seconds: float

    @property
    def study(self) -> tuple[int, str, str]:
        """What answers must have in common to be counted together."""
        return self.task, self.a, self.b


COLUMNS = [field.name for field in fields(Answer)]
HEADER = ",".join(COLUMNS) + "\n"


def read_answers(path: Path) -> list[Answer]:
    """Read the answers of a file; a last line that wasn't written whole is none.

    Raises:
        ConfigurationError: it can't be read, or isn't such a file.
    """
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


class AnswerFile:
    """The file of a study that runs: locked, read once, then appended to. Threads may share it."""

    def __init__(self, path: Path, study: Study) -> None:
        """Open it, or make it.

        Raises:
            ConfigurationError: it can't be written, another study writes it, or it has answers to another one.
        """
        self._study = study
        self._lock = threading.Lock()
        self._file = _opened(path)
        try:
            answers = self._resumed(path)
        except LatentdError:
            self._file.close()
            raise
        self._answered = {(answer.participant, answer.picture) for answer in answers}

    def _resumed(self, path: Path) -> list[Answer]:
        study, data = self._study, self._file.read()
        answers = _parsed(path, data)
        own = (study.task, study.a, study.b, study.seed)
        for task, a, b, seed in {(*answer.study, answer.seed) for answer in answers} - {own}:
            raise _refused(path, f"has answers to --task {task} of {a} and {b} by --seed {seed}; name another --out")
        whole = data.rfind(b"\n") + 1
        os.ftruncate(self._file.fileno(), whole)  # a line without its end was never confirmed to anybody
        if not whole:
            self._append(HEADER)
        return answers

    @property
    def count(self) -> int:
        return len(self._answered)

    def has(self, participant: str, showing: Showing) -> bool:
        """Tell whether a participant has answered this pair."""
        return (participant, showing.pair.name) in self._answered

    def add(self, participant: str, showing: Showing, preferred: Method, seconds: float) -> None:
        """Write an answer, unless the pair has one of this participant: the first counts.

        Raises:
            DiskFull: it can't be written; nothing of it is.
        """
        study, now = self._study, datetime.now(UTC).isoformat(timespec="milliseconds")
        name, left = showing.pair.name, showing.left
        answer = Answer(
            now, participant, study.task, study.a, study.b, study.seed, name, left, preferred, round(seconds, 3)
        )
        with self._lock:
            if not self.has(participant, showing):
                self._append(_line(answer))
                self._answered.add((participant, name))

    def _append(self, line: str) -> None:
        data, end = line.encode(), os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) < len(data):
                raise OSError("no room")
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)
            raise DiskFull(f"the answer can't be written: {error.strerror or error}; choose again") from error

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("a+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise _refused(path, "another `latentd preference` writes it") from error
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    file.seek(0)
    return file


def _line(answer: Answer) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(asdict(answer).values())
    return text.getvalue()


def _parsed(path: Path, data: bytes) -> list[Answer]:
    try:
        text = data[: data.rfind(b"\n") + 1].decode()
        if not (text or data.decode()).startswith(HEADER[: len(data)]):
            raise ValueError("other columns")
        return list(_answers(csv.reader(io.StringIO(text.removeprefix(HEADER), newline=""), strict=True)))
    except (ValueError, csv.Error) as error:
        raise _refused(path, "is no file of answers that `latentd preference` wrote") from error


def _answers(rows: Iterable[list[str]]) -> Iterable[Answer]:
    for row in rows:
        time, participant, task, a, b, seed, picture, left, preferred, seconds = row
        yield Answer(
            time, participant, int(task), a, b, int(seed), picture, _method(left), _method(preferred), float(seconds)
        )


def _method(text: str) -> Method:
    if text == "a":
        return "a"
    if text == "b":
        return "b"
    raise ValueError(text)


def _refused(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {why}", field="out", value=str(path))
