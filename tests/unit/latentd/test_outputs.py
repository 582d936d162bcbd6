"""Where drawings go: nothing is overwritten unasked, and each command has a name of its own."""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from latentd.cli.drawing import commands
from latentd.cli.drawing.outputs import Drawn, paths_for, write, write_file
from tests.modules import ROOT

WRITES = """
import sys
from pathlib import Path
from latentd.cli.drawing.outputs import Drawn, write
paths = [Path(sys.argv[1]) / f"o-{number}.png" for number in range(3)]
write([Drawn(b"drawn", 8, 8, 1)] * 3, paths, {}, force=False, json=sys.argv[2] == "json")
"""
TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from core.errors import ConfigurationError
from latentd.cli.drawing.outputs import write_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_file(Path(sys.argv[1]), bytes(2000), force=sys.argv[2] == "force")
except ConfigurationError as error:
    print(error.detail)
"""


def names(out: Path, images: int, *, force: bool = False) -> list[str]:
    return [path.name for path in paths_for(out, images, force=force)]


def test_names_that_are_taken_are_counted_on(tmp_path: Path) -> None:
    out = tmp_path / "o.png"
    assert names(out, 1) == ["o.png"]
    assert names(out, 3) == ["o-0.png", "o-1.png", "o-2.png"]
    for name in ("o.png", "o-1.png"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "o-2.png").symlink_to("nowhere")
    assert names(out, 1) == ["o-3.png"]
    assert names(out, 3) == ["o-0.png", "o-3.png", "o-4.png"]
    assert names(out, 1, force=True) == ["o.png"]
    assert names(out, 2, force=True) == ["o-0.png", "o-1.png"]


def test_a_file_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "o.png"
    (path,) = paths_for(out, 1, force=False)
    out.write_bytes(b"mine")
    assert write_file(path, b"drawn", force=False) == tmp_path / "o-1.png"
    assert (out.read_bytes(), (tmp_path / "o-1.png").read_bytes()) == (b"mine", b"drawn")
    assert write_file(path, b"forced", force=True) == out
    assert out.read_bytes() == b"forced"


def test_force_overwrites_no_folder(tmp_path: Path) -> None:
    (tmp_path / "o.png").mkdir()
    with pytest.raises(ConfigurationError, match="it is a folder"):
        paths_for(tmp_path / "o.png", 1, force=True)


def test_commands_have_default_names_of_their_own() -> None:
    drawing = (commands.generate, commands.inpaint, commands.upscale)
    defaults = {str(inspect.signature(command).parameters["out"].default) for command in drawing}
    assert defaults == {"generate.png", "inpaint.png", "upscale.png"}


def test_a_file_that_cannot_be_written_after_all_is_named(tmp_path: Path) -> None:
    gone = [tmp_path / "gone" / "o.png"]
    with pytest.raises(ConfigurationError, match=r"--out .*/gone/o\.png: No such file or directory"):
        write([Drawn(b"drawn", 8, 8, 1)], gone, {}, force=False, json=False)


def python(code: str, *words: str | Path, out: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, check=False, stdout=out, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_all_pictures_are_written_where_nobody_reads_of_them(tmp_path: Path, form: str) -> None:
    reading, left = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for out, told in ((left, ""), (full, "warning: standard output: No space left on device; the files are written\n")):
        folder = tmp_path / str(out)
        folder.mkdir()
        ended = python(WRITES, folder, form, out=out)
        os.close(out)
        assert (ended.returncode, ended.stderr, len(list(folder.glob("o-?.png")))) == (0, told, 3)


@pytest.mark.parametrize("how", ["force", "else"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, how: str) -> None:
    out = tmp_path / "o.png"
    if how == "force":
        out.write_bytes(b"mine")
    assert python(TOO_LARGE, out, how).stdout.endswith("o.png: File too large\n")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("o.png", b"mine")] * (how == "force")


def test_force_keeps_a_link_and_who_may_read(tmp_path: Path) -> None:
    out, link = tmp_path / "o.png", tmp_path / "link.png"
    out.write_bytes(b"mine")
    out.chmod(0o600)
    link.symlink_to("o.png")
    assert write_file(link, b"forced", force=True) == link
    assert (link.is_symlink(), out.read_bytes(), out.stat().st_mode & 0o777) == (True, b"forced", 0o600)


def test_force_passes_on_what_goes_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write([Drawn(b"drawn", 8, 8, 1)], paths_for(pipe, 1, force=True), {}, force=True, json=False)
        assert reader.communicate(timeout=20)[0] == b"drawn"
    assert os.listdir(tmp_path) == ["pipe.png"]


def test_a_name_whose_file_cannot_be_put_there_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(ConfigurationError, match="broken"):
        write_file(tmp_path / "a.png", b"drawn", force=False)
    assert not os.listdir(tmp_path)
