"""What a process writes to standard error: JSON where nobody looks, lines on a terminal; never local variables."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import logging, warnings
import structlog
from core import logs

logs.configure("info")
def work(prompt):
    raise ValueError("it broke")
structlog.get_logger().info("ready", models=["m"])
logging.getLogger("uvicorn.error").info("too quiet")
try:
    work("a secret " + "prompt")
except ValueError:
    structlog.get_logger().exception("failed")
    logging.getLogger("rq.worker").exception("it failed: %s", "so")
warnings.warn("old")
"""


def test_every_line_is_json_where_nobody_looks() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["event"].split("\n")[0]) for line in lines[:3]] == [
        ("info", "ready"),
        ("error", "failed"),
        ("error", "it failed: so"),
    ]
    assert "UserWarning: old" in lines[3]["event"]
    assert (lines[2]["logger"], "it broke" in lines[2]["exception"]) == ("rq.worker", True)
    assert all(line["timestamp"] for line in lines)
    assert "a secret prompt" not in done.stderr


@pytest.mark.parametrize("reader", ["full", "gone"])
def test_a_log_that_cant_be_written_stops_nothing(reader: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open("/dev/full", "wb") as full:
        program = [sys.executable, "-c", f"{PROGRAM}print('went on')"]
        done = subprocess.run(program, stdout=subprocess.PIPE, stderr=full if reader == "full" else theirs, check=False)
    os.close(theirs)
    assert done.stdout == b"went on\n"


def on_a_terminal(**env: str) -> bytes:
    """What the program shows there."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, check=True, env=kept | env)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # how Linux says that nobody holds the other end
        pass
    os.close(ours)
    return shown


def test_a_terminal_is_shown_no_local_variables_and_colours_where_they_are_wanted() -> None:
    shown = on_a_terminal()
    assert shown.count(b"it broke") == 2
    assert b"a secret prompt" not in shown
    assert b"\x1b[" in shown
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1")
