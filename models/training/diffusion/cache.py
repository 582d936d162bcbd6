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
from models.training.configs.base import DataConfig
from models.training.configs.diffusion import CacheConfig
from models.training.data.folder import Folder
from models.training.data.loader import centred
from models.training.data.pictures import Drawn, draw
from models.training.loop.draws import generator

PROGRESS, CAPTIONS = "progress.json", "captions.jsonl"
MB = 1 << 20
Encode = Callable[[Tensor, list[Drawn], list[int]], dict[str, Tensor]]  # pictures of entries → arrays
Report = Callable[[int, int], None]


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
    config: CacheConfig, data: DataConfig, seed: int, folder: Folder, identity: str, encode: Encode, report: Report
) -> Cache:
    """Read the cache of a data set, after making what is missing of it.

    identity: what the arrays depend on beside pictures and configuration, the first stage's weights above all.

    Raises:
        ConfigurationError: a picture can't be read, or the disk has no room.
    """
    drawn_as = data.model_dump_json(include={"size", "crop", "zoom", "flip", "compose"})
    told = json.dumps([folder.fingerprint, drawn_as, config.variants, seed, identity])
    path = config.folder / hashlib.sha256(told.encode()).hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    maker = _Maker(config, data, seed, folder, path, encode)
    total = len(folder.items) * config.variants
    done = maker.done()
    while done < total:
        done = maker.make(done, min(done + config.chunk, total), total)
        report(done, total)
    return _read(path, config.variants)


class _Maker:
    def __init__(
        self, config: CacheConfig, data: DataConfig, seed: int, folder: Folder, path: Path, encode: Encode
    ) -> None:
        self.config, self.data, self.seed, self.folder, self.path, self.encode = (
            config,
            data,
            seed,
            folder,
            path,
            encode,
        )

    def done(self) -> int:
        """Return how many entries are there; captions beyond them are taken out."""
        file = self.path / PROGRESS
        done = int(json.loads(file.read_text("utf-8"))["done"]) if file.is_file() else 0
        captions = self.path / CAPTIONS
        lines = captions.read_text("utf-8").splitlines(keepends=True) if captions.is_file() else []
        captions.write_text("".join(lines[:done]), "utf-8")
        return done

    def make(self, start: int, stop: int, total: int) -> int:
        """Make entries start … stop − 1."""
        entries = list(range(start, stop))
        drawn = [self._drawn(entry) for entry in entries]
        pixels = torch.from_numpy(rearrange(np.stack([d.pixels for d in drawn]), "b h w c -> b c h w"))
        arrays = self.encode(centred(pixels), drawn, entries)
        if start == 0:
            self._check_room(arrays, stop - start, total)
        for name, value in arrays.items():
            array = self._array(name, value, total, new=start == 0)
            array[start:stop] = value.cpu().numpy().astype(array.dtype)
            array.flush()  # type: ignore[attr-defined]
        with (self.path / CAPTIONS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(d.captions, ensure_ascii=False) + "\n" for d in drawn)
        unfinished = self.path / f".{PROGRESS}"
        unfinished.write_text(json.dumps({"done": stop, "of": total}), "utf-8")
        unfinished.replace(self.path / PROGRESS)
        return stop

    def _drawn(self, entry: int) -> Drawn:
        rng = generator(self.seed, "cache", entry)
        return draw(self.folder, entry // self.config.variants, self.data, rng)

    def _array(self, name: str, value: Tensor, total: int, *, new: bool) -> NDArray[Any]:
        """Open an array; floating point is kept in half precision."""
        kind = np.float16 if value.is_floating_point() else np.uint8
        file = self.path / f"{name}.npy"
        if not new:
            return np.lib.format.open_memmap(file, mode="r+")
        return np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(total, *value.shape[1:]))

    def _check_room(self, arrays: dict[str, Tensor], made: int, total: int) -> None:
        sizes = (value.numel() * (2 if value.is_floating_point() else 1) for value in arrays.values())
        needed, free = sum(sizes) * total // made, shutil.disk_usage(self.path).free
        if free < needed:
            detail = f"{self.path}: {free // MB} MB are free; {total} latents need {needed // MB} MB"
            raise ConfigurationError(detail, field="cache.folder", value=str(self.path), bound=needed // MB)


def _read(path: Path, variants: int) -> Cache:
    lines = (path / CAPTIONS).read_text("utf-8").splitlines()
    told = [tuple(json.loads(line)) for line in lines]
    texts = {text: number for number, text in enumerate(dict.fromkeys(t for captions in told for t in captions))}
    captions = tuple(tuple(texts[text] for text in entry) for entry in told)
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy")) if "text" not in file.stem}
    return Cache(arrays, tuple(texts), captions, variants, path)


def text_cache(cache: Cache, identity: str, encode: Callable[[list[str]], Tensor], report: Report) -> NDArray[Any]:
    """Return every text of a cache encoded by a frozen encoder, t n d, half precision; the empty text is the last."""
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    file, unfinished = cache.folder / f"text-{name}.npy", cache.folder / f".text-{name}.npy"
    if not file.is_file():
        texts, size = [*cache.texts, ""], 64
        for start in range(0, len(texts), size):
            rows = encode(texts[start : start + size]).float().cpu().numpy().astype(np.float16)
            if start == 0:
                made = np.lib.format.open_memmap(
                    unfinished, mode="w+", dtype=np.float16, shape=(len(texts), *rows.shape[1:])
                )
            made[start : start + len(rows)] = rows
            report(start + len(rows), len(texts))
        made.flush()
        unfinished.replace(file)
    kept: NDArray[Any] = np.load(file, mmap_mode="r")
    return kept
