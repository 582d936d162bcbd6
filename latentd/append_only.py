"""What a damaged append-only file of the embedded Redis asks of people: which file it is and how to mend it.

The tools that check are the server's own binary under another name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FOLDER, MANIFEST = "appendonlydir", "appendonly.aof.manifest"
CHECK_S = 600.0
_FILE = re.compile(r"^file (\S+) .*type (\w)", re.MULTILINE)


def damage(server: Path, data: Path) -> str | None:
    """Name the file in the server's folder that its own tools can't read, and what to do; None if they read them all.

    Called once the server has refused to start: one that was merely cut short it mends by itself.
    """
    for file, kind in _files(data / FOLDER):
        tool = _tool(server, "rdb" if kind == "b" else "aof")
        if file.is_file() and not _reads(server, tool, file):
            return f"{file} is damaged, and Redis does not start with it. {_advice(server, tool, file, kind)}"
    return None


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file that the manifest lists, with its type: b (base) or i (increment)."""
    try:
        listed = (folder / MANIFEST).read_text("utf-8", "replace")
    except OSError:
        return
    yield from ((folder / name, kind) for name, kind in _FILE.findall(listed) if kind in "bi")


def _tool(server: Path, what: str) -> str:
    name = server.name if "server" in server.name else "redis-server"
    return name.replace("server", f"check-{what}")


def _reads(server: Path, tool: str, file: Path) -> bool:
    """Tell whether the tool finds the file whole; where it doesn't run, nothing is said against the file."""
    try:
        done = subprocess.run([tool, file], executable=server, capture_output=True, timeout=CHECK_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode == 0


def _advice(server: Path, tool: str, file: Path, kind: str) -> str:
    if kind == "b":
        return f"Put {file.parent} back from a backup, or move it away to start without jobs"
    mend = f"bash -c 'exec -a {tool} {server} --fix {file}'"
    return f"Copy {file.parent}, then keep everything before the damage with: {mend}"
