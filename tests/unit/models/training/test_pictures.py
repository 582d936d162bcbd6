"""How pictures are drawn for training: decoded, cropped, composed on grounds; their masks and label maps."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import ConfigurationError
from models.training.configs.base import ComposeConfig, DataConfig
from models.training.data.folder import read_folder
from models.training.data.masks import draw_mask
from models.training.data.pictures import GROUNDS, draw, read_picture
from models.training.loop.draws import generator
from tests.training import write_balls


def test_a_picture_with_broken_exif_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=b"Exif\0\0MM")
    with pytest.raises(ConfigurationError, match=r"a\.png: is no readable picture"):
        read_picture(tmp_path / "a.png")


def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path) -> None:
    """Its transparent grey level, which PNG may name, stays transparent."""
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png", transparency=65_535)
    picture = read_picture(tmp_path / "a.png")
    assert picture.mode == "RGBA"
    pixels = np.asarray(picture)
    assert (pixels[..., :3] == (ramp >> 8)[..., None]).all()
    assert ((pixels[..., 3] == 0) == (ramp == 65_535)).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_numbers_without_a_white_are_refused_not_read_as_black(tmp_path: Path, compression: str | None) -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
    for dtype, raw in ((np.float32, "F;32F"), (np.int32, "I;32S")):
        Image.fromarray(ramp.astype(dtype)).save(tmp_path / "a.tiff", compression=compression)
        with pytest.raises(ConfigurationError, match=rf"a\.tiff: its numbers are {raw} .*; save it with 8 or 16 bits"):
            read_picture(tmp_path / "a.tiff")
    for order in ("<u2", ">u2"):
        Image.fromarray(ramp.astype(order)).save(tmp_path / "a.tiff", compression=compression)
        assert (np.asarray(read_picture(tmp_path / "a.tiff"))[..., 0] == ramp.astype(int) >> 8).all()


def test_composing_puts_transparent_things_on_grounds_and_says_so(tmp_path: Path) -> None:
    thing = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    thing.paste((255, 0, 0, 255), (0, 0, 32, 32))
    thing.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("square", "utf-8")
    folder = read_folder(tmp_path)
    compose = ComposeConfig(scale=(0.5, 0.5), coloured=1.0, told=1.0, scenes=0.0)
    drawn = draw(folder, 0, DataConfig(folder=tmp_path, size=64, compose=compose), generator(0, "test", 1))
    ground = drawn.captions[0].removeprefix("square on a ").removesuffix(" background")
    assert drawn.box is not None
    left, top, right, bottom = (round(side * 64) for side in drawn.box)
    assert (right - left, bottom - top) == (32, 32)
    assert (drawn.pixels[top:bottom, left:right] == (255, 0, 0)).all()
    outside = np.ones((64, 64), bool)
    outside[top:bottom, left:right] = False
    assert (drawn.pixels[outside] == GROUNDS[ground]).all()


def test_scenes_say_how_their_things_stand(tmp_path: Path) -> None:
    folder = read_folder(write_balls(tmp_path / "data"))
    config = DataConfig(folder=tmp_path / "data", size=64, compose=ComposeConfig(scenes=1.0))
    drawn = [draw(folder, 0, config, generator(0, "scene", n)) for n in range(8)]
    told = {caption.split(" ball ")[1].split()[0] for d in drawn for caption in d.captions}
    assert told == {"and", "to", "above", "below"}


def test_crops_and_flips_take_the_label_map_along(tmp_path: Path) -> None:
    """Where the map has a class the picture has its colour, whatever was cut."""
    folder = read_folder(write_balls(tmp_path / "data"))
    config = DataConfig(folder=tmp_path / "data", size=32, crop="random", zoom=0.6, flip=True)
    drawn = draw(folder, 1, config, generator(0, "crop", 4))
    assert drawn.map is not None
    assert set(np.unique(drawn.map)) == {0, 2}
    inside = drawn.pixels[drawn.map == 2].mean(0)
    assert inside[1] > inside[0] + 60


def test_masks_cover_something() -> None:
    shares = [draw_mask(32, (0.2, 0.2, 0.8, 0.8), generator(0, "mask", n)).mean() for n in range(40)]
    assert 0.1 < np.mean(shares) < 0.6


def test_masks_of_pictures_whose_thing_is_unknown_leave_something() -> None:
    masks = [draw_mask(32, None, generator(0, "mask", n)) for n in range(200)]
    assert np.mean([mask.all() for mask in masks]) < 0.02
    assert np.mean([draw_mask(32, (0, 0, 1, 1), generator(0, "mask", n)).all() for n in range(200)]) > 0.1


def test_label_maps_of_two_colours_are_numbers_of_classes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "map.png")
    row = {"file_name": "a.png", "map": "map.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
    drawn = draw(read_folder(tmp_path), 0, DataConfig(folder=tmp_path, size=16), generator(0, "map", 0))
    assert drawn.map is not None
    assert set(np.unique(drawn.map)) == {1}


def test_label_maps_are_numbers_of_one_channel(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    config = DataConfig(folder=tmp_path, size=16)

    def drawn(name: str = "map.png") -> int:
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "map": name}), "utf-8")
        found = draw(read_folder(tmp_path, maps=True), 0, config, np.random.default_rng(0)).map
        assert found is not None
        return int(found.max())

    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "map.png")
    assert drawn() == 200
    write_png(tmp_path / "map.png", (8, 8), bits=4, data=bytes([0, *([0x33] * 4)]) * 8)
    assert drawn() == 3
    for wrong, told in (
        (Image.new("RGB", (8, 8), (200, 0, 0)), "has the channels RGB; a label map has one"),
        (Image.fromarray(np.full((8, 8), 300, np.uint16)), "has class 300; the last that is trained is 255"),
    ):
        wrong.save(tmp_path / "map.png")
        with pytest.raises(ConfigurationError, match=told):
            drawn()
    Image.fromarray(np.full((8, 8), -1, np.int32)).save(tmp_path / "map.tiff")
    with pytest.raises(ConfigurationError, match=r"has class -1; .* and the first 0"):
        drawn("map.tiff")


def write_png(file: Path, size: tuple[int, int], *, bits: int, data: bytes) -> None:
    """A grey PNG of few bits a pixel, which Pillow reads and doesn't write; `data`: lines with their filters."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
