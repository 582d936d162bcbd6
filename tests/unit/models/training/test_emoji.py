"""The emoji set: names, captions, and a set built from packages of npm's form."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from core.errors import ConfigurationError
from models.training.configs.emoji import EmojiConfig
from models.training.data.folder import read_folder, weights_of
from models.training.emoji import packages
from models.training.emoji.build import build_emoji
from models.training.emoji.captions import captions_of
from models.training.emoji.names import aliases, bare, named_by_picture, plain, weight_of
from models.training.emoji.packages import KEYWORDS, NAMES, SOURCES, Package, fetch
from models.training.loop.alone import held
from models.training.loop.draws import generator
from models.training.loop.trainer import Progress


def pack(package: Package, folder: Path, files: dict[str, bytes]) -> None:
    """Write an archive as `npm pack` does."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / package.archive, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def webp(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 20), colour).save(buffer, "webp", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path: Path) -> EmojiConfig:
    """Packages of two styles, already fetched."""
    folder = tmp_path / "packages"
    square = '<path fill="red" d="M0 0h32v32H0z"/>'
    icons = {name: {"body": square} for name in ("red-heart", "no-entry", "singer-medium-dark", "fire-engine")}
    icons["old-one"] = {"body": square, "hidden": True}  # type: ignore[dict-item]
    icons["nothing"] = {"body": ""}
    flat = json.dumps({"icons": icons, "width": 32, "height": 32}).encode()
    pack(SOURCES["flat"].package, folder, {"icons.json": flat})
    pack(SOURCES["3d"].package, folder, {"assets/2764-fe0f.webp": webp("red"), "assets/1f525.webp": webp("orange")})
    labels = [
        {"label": "red heart", "hexcode": "2764-FE0F", "emoji": "❤️", "tags": ["love"]},
        {"label": "fire", "hexcode": "1F525", "emoji": "🔥", "tags": ["flame", "hot"]},
    ]
    pack(NAMES, folder, {"en/data.json": json.dumps(labels).encode()})
    pack(KEYWORDS, folder, {"dist/emoji-en-US.json": json.dumps({"🔥": ["lit", "flame"]}).encode()})
    fields = {"out": tmp_path, "styles": {"flat": 0.8, "3d": 0.2}, "late_styles": {"flat": 1}, "size": 64}
    return EmojiConfig.model_validate(fields)


def test_a_set_is_a_folder_of_transparent_pictures_with_captions(config: EmojiConfig) -> None:
    told: list[Progress] = []
    assert build_emoji(config, told.append, lambda: False)
    folder = read_folder(config.out, captions=True, labels=True)
    assert [item.file.name for item in folder.items] == [
        "flat-fire-engine.png", "flat-red-heart.png", "3d-1f525.png", "3d-2764-fe0f.png"
    ]  # fmt: skip
    assert folder.classes == ("fire", "fire engine", "red heart")
    with Image.open(folder.items[2].file) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (64, 64))
        assert picture.getchannel("A").getextrema() == (0, 255)  # twice as wide as high, in the middle
    assert weights_of(folder, "weight") == pytest.approx([0.4, 0.4, 0.1, 0.1])
    assert weights_of(folder, "weight_late") == pytest.approx([0.5, 0.5, 0.0, 0.0])
    assert told[-1].step == told[-1].steps
    assert "Microsoft Fluent Emoji 3D (MIT)" in (config.out / "ATTRIBUTION.md").read_text("utf-8")


def test_building_again_gives_the_same(config: EmojiConfig) -> None:
    build_emoji(config, lambda _: None, lambda: False)
    metadata, fingerprint = (config.out / "metadata.jsonl").read_bytes(), read_folder(config.out).fingerprint
    build_emoji(config, lambda _: None, lambda: False)
    assert (config.out / "metadata.jsonl").read_bytes() == metadata
    assert read_folder(config.out).fingerprint == fingerprint


def test_pictures_of_another_size_are_drawn_again(config: EmojiConfig) -> None:
    build_emoji(config, lambda _: None, lambda: False)
    (config.out / "images" / "3d-1f525.png").write_bytes(b"cut off")
    build_emoji(config.model_copy(update={"size": 32}), lambda _: None, lambda: False)
    sizes = set()
    for item in read_folder(config.out).items:
        with Image.open(item.file) as picture:
            sizes.add(picture.size)
    assert sizes == {(32, 32)}


def test_building_stops_after_a_picture_and_goes_on(config: EmojiConfig) -> None:
    assert not build_emoji(config, lambda _: None, lambda: True)
    assert len(list((config.out / "images").iterdir())) == 1
    assert not (config.out / "metadata.jsonl").exists()
    assert build_emoji(config, lambda _: None, lambda: False)
    assert len(list((config.out / "images").iterdir())) == 4


def test_a_set_is_built_by_one_process_at_a_time(config: EmojiConfig) -> None:
    with held(config.out), pytest.raises(ConfigurationError, match="another process works there"):
        build_emoji(config, lambda _: None, lambda: False)
    assert build_emoji(config, lambda _: None, lambda: False)


def test_a_style_of_which_nothing_is_left_is_named(config: EmojiConfig) -> None:
    pack(SOURCES["flat"].package, config.out / "packages", {"icons.json": b'{"icons": {}}'})
    with pytest.raises(ConfigurationError, match="no picture of style flat"):
        build_emoji(config, lambda _: None, lambda: False)


def test_without_npm_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="npm isn't installed"):
        fetch(NAMES, tmp_path)


def test_npm_that_is_too_slow_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it began to write isn't taken for the archive the next time."""
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho half > {NAMES.archive}\nexec /bin/sleep 60\n", "utf-8")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages, "PATIENCE_S", 0.5)
    with pytest.raises(ConfigurationError, match=r"can't fetch emojibase-data@\S+ within 0\.5 s"):
        fetch(NAMES, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())


def test_names_that_a_picture_alone_names() -> None:
    kept = ("red heart", "cat face", "sunflower", "door", "milk", "police officer")
    left = ("no entry", "woman singer", "flag france", "singer medium dark", "keycap 3", "cat with tears of joy")
    assert all(named_by_picture(name) for name in kept)
    assert not any(named_by_picture(name) for name in left)
    assert aliases("automobile") == ("car",)
    assert (weight_of("waving hand light skin tone"), weight_of("cat")) == (0.15, 1.0)


def test_labels_become_plain_words() -> None:
    assert plain("Jack-O-Lantern") == "jack o lantern"
    assert plain("woman biking: medium-light skin tone") == "woman biking medium light skin tone"
    assert bare("1F468-FE0F-200D") == "1f468-200d"


def test_unstyled_captions_belong_to_the_plain_style_alone() -> None:
    flat = captions_of("automobile", ("road",), "flat", "flat", 60, generator(1, "captions", 0))
    drawn = captions_of("automobile", ("road",), "3d", "flat", 60, generator(1, "captions", 0))
    assert flat[0] == drawn[0] == "automobile"
    styled = [text for text in flat if "flat style" in text or "flat design" in text]
    assert 10 < len(styled) < 40
    assert all("3d style" in text or "3d render" in text for text in drawn[1:])
    assert any("car" in text for text in flat)
    assert any("road" in text for text in flat)
