"""Where drawings go: nothing is overwritten unasked, and each command has a name of its own."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from latentd.cli.drawing import commands
from latentd.cli.drawing.outputs import Drawn, paths_for, write, write_file


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
