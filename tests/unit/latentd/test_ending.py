"""The last words of commands that serve: a line of the log where that is JSON, text on a terminal and of others."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from tests.modules import ROOT

WRONG = os.environ | {"LATENTD_PORT": "abc"}
TOLD = "LATENTD_PORT='abc': input should be a valid integer"
BROKEN = """
import sys
import service.app
def serve(*_args, **_kwargs):
    secret = "a " + "prompt"
    raise ValueError("it broke")
service.app.serve = serve
sys.argv[1:] = ["gateway"]
from latentd.cli import process
process()
"""


def ended(*words: str, env: dict[str, str] | None = None, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """How a Python process with these arguments ended: its exit code and what it said on standard error."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=stderr, check=False, timeout=60
    )
    assert done.stdout == b""
    return done.returncode, (done.stderr or b"").decode()


def line_of(said: str) -> dict[str, Any]:
    assert said.count("\n") == 1, said
    line: dict[str, Any] = json.loads(said)
    assert line.pop("timestamp")
    return line


@pytest.mark.parametrize("command", ["gateway", "worker", "up"])
def test_a_wrong_setting_is_a_line_of_the_log(command: str) -> None:
    code, said = ended("-m", "latentd", command, env=WRONG)
    line = line_of(said)
    assert (code, line.pop("detail")[: len(TOLD)], line) == (1, TOLD, {"event": "can't work", "level": "critical"})


def test_a_fault_of_ours_is_one_line_with_its_traceback() -> None:
    code, said = ended("-c", BROKEN)
    line = line_of(said)
    assert (code, line["event"], line["level"]) == (70, "a fault of ours", "critical")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: it broke")
    assert "a prompt" not in said


def test_other_commands_tell_people() -> None:
    code, said = ended("-m", "latentd", "settings", env=WRONG)
    assert (code, said.startswith(f"latentd: {TOLD}"), said.count("\n")) == (1, True, 1)


def test_a_terminal_shows_a_line_for_people() -> None:
    ours, theirs = pty.openpty()
    code, _ = ended("-m", "latentd", "gateway", env=WRONG | {"NO_COLOR": "1"}, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert (code, shown.startswith(f"latentd: {TOLD}")) == (1, True), shown


@pytest.mark.parametrize(("words", "code"), [(["-m", "latentd", "gateway"], 1), (["-c", BROKEN], 70)])
def test_a_log_that_cant_be_written_keeps_the_exit_code(words: list[str], code: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    assert ended(*words, env=WRONG if code == 1 else None, stderr=full) == (code, "")
    os.close(full)
