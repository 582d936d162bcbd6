"""What an append-only file that the embedded Redis can't read asks of people: which file it is, and how to go on.

The tools that check are the server's own binary under another name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FOLDER, MANIFEST = "appendonlydir", "appendonly.aof.manifest"
CHECK_S = 600.0
_WAY_ON = "Let LATENTD_REDIS_SERVER name such a server, as new or newer; unset, it is the Valkey that latentd brings"
_FILE = re.compile(r"^file (\S+) .*type (\w)", re.MULTILINE)
_WRITER = re.compile(rb"^(?:REDIS|VALKEY)\d+\xfa.(redis|valkey)-ver.([\d.]+)", re.DOTALL)
# The last is of Valkey's tool, which reads on where the server doesn't.
_FOREIGN = re.compile(rb"Wrong signature|Can't handle RDB format|Foreign RDB version")


def damage(server: Path, data: Path) -> str | None:
    """Name the file in the server's folder that its own tools can't read, and what to do; None if they read them all.

    Called once the server has refused to start: one that was merely cut short it mends by itself.
    """
    for file, kind in _files(data / FOLDER):
        tool = _tool(server, "rdb" if kind == "b" else "aof")
        whole, said = _checked(server, tool, file) if file.is_file() else (True, b"")
        if _FOREIGN.search(said) and (writer := _writer(file)):
            return f"{writer} wrote {file}, in a format that {server} does not read. {_WAY_ON}"
        if not whole:
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


def _checked(server: Path, tool: str, file: Path) -> tuple[bool, bytes]:
    """Tell whether the tool finds the file whole, and what it says; one that doesn't run says nothing against it."""
    try:
        done = subprocess.run([tool, file], executable=server, capture_output=True, timeout=CHECK_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return True, b""
    return done.returncode == 0, done.stdout


def _writer(file: Path) -> str | None:
    """Which server says in its head that it wrote the file; None where there is no such head."""
    with file.open("rb") as opened:
        found = _WRITER.match(opened.read(64))
    return found and f"{found[1].decode().capitalize()} {found[2].decode()}"


def _advice(server: Path, tool: str, file: Path, kind: str) -> str:
    if kind == "b":
        return f"Put {file.parent} back from a backup, or move it away to start without jobs"
    mend = f"bash -c 'exec -a {tool} {server} --fix {file}'"
    return f"Copy {file.parent}, then keep everything before the damage with: {mend}"
