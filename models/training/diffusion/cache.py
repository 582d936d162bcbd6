"""Latents and texts of a data set on disk, encoded once, in as many pieces as it takes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from core.errors import ConfigurationError
from models.training.configs.diffusion import LatentRun, LdmRun, MapCondition
from models.training.data.folder import Folder, Item
from models.training.data.loader import made_ahead
from models.training.data.masks import draw_mask
from models.training.data.pictures import Drawn, draw
from models.training.loop.alone import alone_in
from models.training.loop.draws import generator
from models.training.loop.trainer import Stop

PROGRESS, CAPTIONS = "progress.json", "captions.jsonl"
TEXTS = 64  # that are encoded at a time
MB = 1 << 20
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries before they are encoded; masks are 1 where an inpainting model is to paint."""

    pictures: Tensor  # b 3 H W, uint8
    captions: tuple[tuple[str, ...], ...]
    masks: Tensor | None = None  # b 1 H W, uint8
    maps: Tensor | None = None  # b H W, uint8


Encode = Callable[[Chunk], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Cache:
    """Arrays over entries (picture · variants + variant), by name, and the texts that are true of each entry."""

    arrays: dict[str, NDArray[Any]]
    texts: tuple[str, ...]
    captions: tuple[tuple[int, ...], ...]  # numbers of texts
    variants: int
    folder: Path

    def rows(self, name: str, entries: Sequence[int]) -> Tensor:
        """Return the rows of an array as float32, or as integers where it holds those."""
        rows = self.arrays[name][list(entries)]
        return torch.from_numpy(rows.astype(np.float32) if rows.dtype == np.float16 else rows.astype(np.int64))


def cache_of(
    run: LatentRun, folder: Folder, identity: str, encode: Encode, report: Report, stop: Stop, *, masked: bool = False
) -> Cache | None:
    """Read the cache of a data set, after making what is missing of it; `data.workers` processes draw the pictures.

    None if `stop` said so before it was whole; what is made is kept. One process makes it at a time; others wait.

    identity: what the arrays depend on beside pictures and configuration, the first stage's weights above all.
    masked: whether chunks have masks.

    Raises:
        ConfigurationError: a picture can't be read, a label map has a class too many, or the disk has no room.
    """
    drawn_as = run.data.model_dump_json(include={"size", "crop", "zoom", "flip", "compose"})
    told = json.dumps([folder.fingerprint, drawn_as, run.cache.variants, run.seed, identity])
    path = run.cache.folder / hashlib.sha256(told.encode()).hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    maker = _Maker(path, encode, len(folder.items) * run.cache.variants)
    if maker.done() < maker.total:
        with alone_in(path, stop) as alone:
            if not alone or not _made(run, maker, _Drawing(run, folder, masked), report, stop):
                return None
    cache = _read(path, run.cache.variants)
    if isinstance(run, LdmRun) and isinstance(run.condition, MapCondition):  # one of more classes may have made it
        for entry, label_map in enumerate(cache.arrays.get("map", ())):
            _check_classes(run, folder.items[entry // cache.variants], label_map)
    return cache


def _made(run: LatentRun, maker: _Maker, drawing: _Drawing, report: Report, stop: Stop) -> bool:
    """Make what is missing. Returns whether all is there."""
    done = maker.begin()
    for chunk in made_ahead(_chunks(done, maker.total, run.cache.chunk), drawing, run.data.workers):
        done = maker.make(done, chunk)
        report(done, maker.total)
        if stop() and done < maker.total:
            return False
    return True


def _chunks(done: int, total: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, total))) for start in range(done, total, size)]


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Entries → their chunk."""

    run: LatentRun
    folder: Folder
    masked: bool

    def __call__(self, entries: list[int]) -> Chunk:
        drawn = [self._drawn(entry) for entry in entries]
        pictures = torch.from_numpy(rearrange(np.stack([d.pixels for d in drawn]), "b h w c -> b c h w"))
        maps = [torch.from_numpy(d.map) for d in drawn if d.map is not None]
        masks = self._masks(drawn, entries) if self.masked else None
        return Chunk(pictures, tuple(d.captions for d in drawn), masks, torch.stack(maps) if maps else None)

    def _drawn(self, entry: int) -> Drawn:
        run, index = self.run, entry // self.run.cache.variants
        drawn = draw(self.folder, index, run.data, generator(run.seed, "cache", entry))
        if drawn.map is not None:
            _check_classes(run, self.folder.items[index], drawn.map)
        return drawn

    def _masks(self, drawn: list[Drawn], entries: list[int]) -> Tensor:
        masks = [
            draw_mask(self.run.data.size, d.box, generator(self.run.seed, "mask", entry))
            for d, entry in zip(drawn, entries, strict=True)
        ]
        return rearrange(torch.from_numpy(np.stack(masks)), "b h w -> b 1 h w")


def _check_classes(run: LatentRun, item: Item, label_map: NDArray[Any]) -> None:
    condition, value = run.condition if isinstance(run, LdmRun) else None, int(label_map.max())
    if isinstance(condition, MapCondition) and value >= condition.classes:
        last = condition.classes - 1
        detail = f"{item.map}: has class {value}; condition.classes is {condition.classes}, so that the last is {last}"
        raise ConfigurationError(detail, field="condition.classes", value=value, bound=last)


@dataclass(frozen=True, slots=True)
class _Maker:
    path: Path
    encode: Encode
    total: int

    def done(self) -> int:
        """Return how many entries are there; none where captions of some are lost."""
        file, captions = self.path / PROGRESS, self.path / CAPTIONS
        done = int(json.loads(file.read_text("utf-8"))["done"]) if file.is_file() else 0
        return done if captions.is_file() and len(_lines(captions)) >= done else 0

    def begin(self) -> int:
        """Take out captions beyond the entries that are there; return how many those are."""
        done, captions = self.done(), self.path / CAPTIONS
        lines = _lines(captions) if captions.is_file() else []
        captions.write_text("".join(lines[:done]), "utf-8")
        return done

    def make(self, start: int, chunk: Chunk) -> int:
        """Write the entries from `start` on; return where the next chunk starts."""
        arrays = self.encode(chunk)
        stop = start + len(chunk.captions)
        if start == 0:
            self._check_room(arrays, stop)
        for name, value in arrays.items():
            array = self._array(name, value, new=start == 0)
            array[start:stop] = value.cpu().numpy().astype(array.dtype)
            array.flush()  # type: ignore[attr-defined]
        with (self.path / CAPTIONS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(captions, ensure_ascii=False) + "\n" for captions in chunk.captions)
        unfinished = self.path / f".{PROGRESS}"
        unfinished.write_text(json.dumps({"done": stop, "of": self.total}), "utf-8")
        unfinished.replace(self.path / PROGRESS)
        return stop

    def _array(self, name: str, value: Tensor, *, new: bool) -> NDArray[Any]:
        """Open an array; floating point is kept in half precision."""
        kind = np.float16 if value.is_floating_point() else np.uint8
        file = self.path / f"{name}.npy"
        if not new:
            return np.lib.format.open_memmap(file, mode="r+")
        return np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(self.total, *value.shape[1:]))

    def _check_room(self, arrays: dict[str, Tensor], made: int) -> None:
        sizes = (value.numel() * (2 if value.is_floating_point() else 1) for value in arrays.values())
        check_room(self.path, sum(sizes) * self.total // made, f"{self.total} latents")


def check_room(path: Path, needed: int, what: str) -> None:
    """Refuse what a disk has no room for; who wrote into a sparse file there would end by a signal.

    Raises:
        ConfigurationError: naming both sizes.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        detail = f"{path}: {free // MB} MB are free; {what} need {needed // MB} MB"
        raise ConfigurationError(detail, field="cache.folder", value=str(path), bound=needed // MB)


def _read(path: Path, variants: int) -> Cache:
    told = [tuple(json.loads(line)) for line in _lines(path / CAPTIONS)]
    texts = {text: number for number, text in enumerate(dict.fromkeys(t for captions in told for t in captions))}
    captions = tuple(tuple(texts[text] for text in entry) for entry in told)
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy")) if "text" not in file.stem}
    return Cache(arrays, tuple(texts), captions, variants, path)


def _lines(file: Path) -> list[str]:
    """Return the lines of JSON, whose strings may hold what `splitlines` takes for the end of one."""
    with file.open(encoding="utf-8") as opened:
        return list(opened)


def text_cache(
    cache: Cache, identity: str, encode: Callable[[list[str]], Tensor], report: Report, stop: Stop
) -> NDArray[Any] | None:
    """Return every text of a cache encoded by a frozen encoder, t n d, half precision; the empty text is the last.

    None if `stop` said so before all were; those that are encoded are kept.

    Raises:
        ConfigurationError: the disk has no room.
    """
    file = cache.folder / f"text-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
    if not file.is_file():
        with alone_in(cache.folder, stop) as alone:
            if not alone or not (file.is_file() or _encoded([*cache.texts, ""], file, encode, report, stop)):
                return None
    kept: NDArray[Any] = np.load(file, mmap_mode="r")
    return kept


def _encoded(texts: list[str], file: Path, encode: Callable[[list[str]], Tensor], report: Report, stop: Stop) -> bool:
    """Write what texts are encoded to, going on where a piece before this one stopped. Returns whether all were."""
    unfinished, progress = file.with_name(f".{file.name}"), file.with_suffix(".done")
    for start in range(_texts_done(progress), len(texts), TEXTS):
        rows = encode(texts[start : start + TEXTS]).float().cpu().numpy().astype(np.float16)
        if start == 0:
            check_room(file.parent, len(texts) * rows[0].nbytes, f"{len(texts)} texts")
        shape = None if start else (len(texts), *rows.shape[1:])
        made = np.lib.format.open_memmap(unfinished, mode="r+" if start else "w+", dtype=np.float16, shape=shape)
        made[start : start + len(rows)] = rows
        made.flush()
        progress.write_text(str(start + len(rows)), "utf-8")
        report(start + len(rows), len(texts))
        if stop() and start + len(rows) < len(texts):
            return False
    unfinished.replace(file)
    progress.unlink()
    return True


def _texts_done(progress: Path) -> int:
    """Return how many texts an unfinished file holds, in whole parts: what a crash cut short counts for none."""
    told = progress.read_text("utf-8") if progress.is_file() else ""
    return int(told) // TEXTS * TEXTS if told.isdecimal() else 0
