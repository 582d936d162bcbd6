"""The npm packages that hold artwork and names: fetched by npm itself at exact versions, read without unpacking."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import ConfigurationError
from models.training.configs.emoji import Style


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package at its version."""

    name: str
    version: str

    @property
    def archive(self) -> str:
        """Return the file name that npm gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class Source:
    """A style of artwork: where it is, how captions say it, whose it is."""

    package: Package
    kind: Literal["iconify", "webp"]
    phrases: tuple[str, str]  # after a name, before a name
    credit: str


SOURCES: dict[Style, Source] = {
    "flat": Source(
        Package("@iconify-json/fluent-emoji-flat", "1.2.6"),
        "iconify",
        ("flat style", "flat design"),
        "Microsoft Fluent Emoji Flat (MIT)",
    ),
    "3d": Source(
        Package("@lobehub/fluent-emoji-3d", "1.1.0"),
        "webp",
        ("3d style", "3d render"),
        "Microsoft Fluent Emoji 3D (MIT)",
    ),
    "noto": Source(
        Package("@iconify-json/noto", "1.2.9"), "iconify", ("noto style", "noto"), "Google Noto Emoji (Apache-2.0)"
    ),
    "blob": Source(
        Package("@iconify-json/noto-v1", "1.2.5"),
        "iconify",
        ("blob style", "blob"),
        "Google Noto Emoji v1 (Apache-2.0)",
    ),
    "twemoji": Source(
        Package("@iconify-json/twemoji", "1.2.5"),
        "iconify",
        ("twemoji style", "twemoji"),
        "Twemoji by Twitter (CC-BY-4.0)",
    ),
    "fluent": Source(
        Package("@iconify-json/fluent-emoji", "1.2.7"),
        "iconify",
        ("fluent style", "fluent"),
        "Microsoft Fluent Emoji (MIT)",
    ),
    "emojione": Source(
        Package("@iconify-json/emojione", "1.2.3"),
        "iconify",
        ("emojione style", "emojione"),
        "Emoji One v2 by Emoji One (CC-BY-4.0)",
    ),
    "firefox": Source(
        Package("@iconify-json/fxemoji", "1.2.2"),
        "iconify",
        ("firefox style", "firefox"),
        "Firefox OS Emoji by Mozilla (Apache-2.0)",
    ),
    "icon": Source(
        Package("@iconify-json/flat-color-icons", "1.2.3"),
        "iconify",
        ("flat icon", "interface icon"),
        "Flat Color Icons by Icons8 (MIT)",
    ),
}
NAMES, KEYWORDS = Package("emojibase-data", "17.0.0"), Package("emojilib", "4.0.3")
NAME_CREDIT = "names and keywords: emojibase-data (MIT), emojilib (MIT)"
PATIENCE_S = 300.0


def fetch(package: Package, folder: Path) -> Path:
    """Let npm fetch a package's archive, unless it is there.

    Raises:
        ConfigurationError: npm is missing, or can't fetch it in time.
    """
    archive = folder / package.archive
    if archive.is_file():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigurationError("npm isn't installed; the emoji artwork comes from npm packages", field="npm")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package.name}@{package.version}"
    command = [npm, "pack", "--silent", wanted]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        archive.unlink(missing_ok=True)  # what it had written of it
        detail = f"npm can't fetch {wanted} within {PATIENCE_S:g} s"
        raise ConfigurationError(detail, field="npm", bound=PATIENCE_S) from error
    if done.returncode or not archive.is_file():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ConfigurationError(f"npm can't fetch {wanted} ({said[-1] if said else 'it says nothing'})", field="npm")
    return archive


def read_json(archive: Path, member: str) -> Any:
    """Read a JSON file of a package.

    Raises:
        ConfigurationError: the archive hasn't got it.
    """
    with tarfile.open(archive) as opened:
        try:
            stream = opened.extractfile(f"package/{member}")
        except KeyError as error:
            raise ConfigurationError(f"{archive}: has no {member}") from error
        assert stream is not None
        return json.load(stream)


def read_files(archive: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield stem and bytes of every file of a package with this suffix."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and member.name.endswith(suffix):
                stream = opened.extractfile(member)
                assert stream is not None
                yield Path(member.name).stem, stream.read()
