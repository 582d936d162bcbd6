"""Torch checkpoints (.ckpt, .bin, .pt): zip archives (torch 1.6 and later) and the older stream of pickles."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.unpickler import PendingTensor, Storage, Unpickler

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MAX_EXPANDED = 2**24  # elements of a tensor that repeats those of a smaller storage
MAX_PICKLE = 2**26  # bytes of a zip's index, which names tensors and holds none
BLOCK = 2**24  # bytes read at a time
KEPT = 2**20  # bytes of a tensor that is always read
MAX_RATIO, SMALL = 200, 2**26  # compressed weights shrink little; what shrinks more is a bomb, unless it is small


Wanted = Callable[[str], bool]


def read_pickle(path: Path, wanted: Wanted | None = None, *, data: bool = True) -> Any:
    """Read the object that torch.save wrote, its tensors if `wanted` says so of their key (default: all).

    Without `data` large tensors are shapes alone, on the meta device.

    Containers come back as dict, list and tuple; other objects as Opaque. Executes nothing of the file.

    Raises:
        CheckpointError: naming the file, and the key where a tensor is damaged.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(ZIP_MAGIC))
            stream.seek(0)
            read = _read_zip if magic == ZIP_MAGIC else _read_legacy
            return read(stream, wanted or (lambda _: True), data, max(SMALL, MAX_RATIO * path.stat().st_size))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.detail}", field=error.field) from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, struct.error) as error:
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged ({error})") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, RecursionError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged ({error})") from error


def _read_zip(stream: IO[bytes], wanted: Wanted, data: bool, most: int) -> Any:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        indices = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if not indices:
            raise CheckpointError("a zip archive without data.pkl, not a torch checkpoint")
        root = min(indices, key=len).removesuffix("data.pkl")
        if f"{root}byteorder" in names and _unzipped(archive, f"{root}byteorder") != b"little":
            raise CheckpointError("written in big-endian byte order, which is not supported")
        value = Unpickler(io.BytesIO(_unzipped(archive, f"{root}data.pkl"))).load()
        read = partial(_zip_storage, archive, f"{root}data/", data)
        return _Reader(read, wanted, most).walk(value)


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(MAX_PICKLE + 1)
    if len(data) > MAX_PICKLE:
        raise CheckpointError(f"{name} holds more than {MAX_PICKLE} bytes")
    return data


def _zip_storage(archive: zipfile.ZipFile, folder: str, data: bool, storage: Storage) -> Tensor:
    """Read a storage; files that were packed again are compressed."""
    name = folder + storage.key
    info = archive.getinfo(name)
    needed = storage.numel * storage.dtype.itemsize
    if info.file_size < needed:
        raise CheckpointError(f"{name} holds {info.file_size} bytes, {needed} are needed")
    if needed > SMALL and needed > MAX_RATIO * info.compress_size:
        raise CheckpointError(f"{name}: {info.compress_size} bytes unpack to {needed}; weights don't shrink like that")
    if not data and without_data(storage.dtype, storage.numel):
        return torch.empty(storage.numel, dtype=storage.dtype, device="meta")
    with archive.open(info) as file:
        return read_tensor(file, storage.dtype, storage.numel)


def _read_legacy(stream: IO[bytes], wanted: Wanted, data: bool, most: int) -> Any:
    if Unpickler(stream).load() != LEGACY_MAGIC or Unpickler(stream).load() != LEGACY_VERSION:
        raise CheckpointError("not a torch checkpoint")
    system = Unpickler(stream).load()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise CheckpointError("written in big-endian byte order, which is not supported")
    value, keys = Unpickler(stream).load(), Unpickler(stream).load()
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise CheckpointError("not a torch checkpoint")
    positions = {str(key): 0 for key in keys}
    reader = _Reader(partial(_legacy_storage, stream, positions, data), wanted, most)
    _legacy_positions(stream, positions, {p.storage.key: p.storage.dtype for p in _pending(value)})
    return reader.walk(value)


def _legacy_positions(stream: IO[bytes], positions: dict[str, int], dtypes: dict[str, torch.dtype]) -> None:
    """Find where each storage's elements start: one follows another, each after its element count (little-endian)."""
    for key in positions:
        (numel,) = struct.unpack("<q", stream.read(8))
        positions[key] = stream.tell()
        stream.seek(numel * dtypes[key].itemsize, 1)


def _legacy_storage(stream: IO[bytes], positions: dict[str, int], data: bool, storage: Storage) -> Tensor:
    begin, needed = (n * storage.dtype.itemsize for n in (storage.offset, storage.numel))
    if (there := stream.seek(0, 2) - positions[storage.key] - begin) < needed:
        raise CheckpointError(f"truncated: {there} bytes where {needed} are needed")
    if not data and without_data(storage.dtype, storage.numel):
        return torch.empty(storage.numel, dtype=storage.dtype, device="meta")
    stream.seek(positions[storage.key] + begin)
    return read_tensor(stream, storage.dtype, storage.numel)


def read_tensor(stream: IO[bytes], dtype: torch.dtype, numel: int) -> Tensor:
    """Read elements into memory of their own, block by block: nothing is there twice, nothing stays the file's.

    Raises:
        CheckpointError: the stream ends before.
    """
    data = torch.empty(numel * dtype.itemsize, dtype=torch.uint8)
    view, got = data.numpy().data, 0
    while got < len(view):
        block = stream.read(min(BLOCK, len(view) - got))
        if not block:
            raise CheckpointError(f"truncated: {got} bytes where {len(view)} are needed")
        view[got : got + len(block)] = block
        got += len(block)
    return data.view(dtype)


def without_data(dtype: torch.dtype, numel: int) -> bool:
    """Tell tensors that are read as shapes alone where nobody needs their values; small ones may be schedules."""
    return numel * dtype.itemsize > KEPT


def _pending(value: Any) -> Iterator[PendingTensor]:
    """Yield the tensors of a value, each container looked into once however often it is held."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, PendingTensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            stack += item.values() if isinstance(item, dict) else item


class _Reader:
    """Replaces pending tensors by real ones; tensors of one storage share its memory, containers held twice are one."""

    def __init__(self, read: Callable[[Storage], Tensor], wanted: Wanted, most: int) -> None:
        self._read = read
        self._wanted = wanted
        self._left = most  # bytes: a file may name one part of itself many times, each of another length
        self._cache: dict[Storage, Tensor] = {}
        self._walked: dict[int, dict[Any, Any] | list[Any]] = {}

    def walk(self, value: Any, key: str = "") -> Any:
        if isinstance(value, PendingTensor):
            return self._tensor(value, key)
        if not isinstance(value, dict | list | tuple):
            return value
        if id(value) not in self._walked:
            self._walk_into(value, key)
        return self._walked[id(value)]

    def _walk_into(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...], key: str) -> None:
        if isinstance(value, dict):
            named: dict[Any, Any] = {}
            self._walked[id(value)] = named
            kept = ((k, self.walk(v, str(k))) for k, v in value.items())
            named.update((k, v) for k, v in kept if not isinstance(v, PendingTensor))
            return
        listed: list[Any] = []
        self._walked[id(value)] = listed
        listed += [self.walk(item, key) for item in value]

    def _tensor(self, pending: PendingTensor, key: str) -> Tensor | PendingTensor:
        if not self._wanted(key):
            return pending
        numel = pending.storage.numel
        if not _inside(pending) or math.prod(pending.size) > max(numel, MAX_EXPANDED):
            raise CheckpointError(f"{key}: shape {list(pending.size)} exceeds its storage", field=key)
        if pending.storage not in self._cache:
            self._cache[pending.storage] = self._counted(pending.storage)
        return self._cache[pending.storage].as_strided(pending.size, pending.stride, pending.offset)

    def _counted(self, storage: Storage) -> Tensor:
        values = self._read(storage)
        self._left -= 0 if values.is_meta else values.nbytes
        if self._left < 0:
            raise CheckpointError("its tensors unpack to far more than the file holds")
        return values


def _inside(pending: PendingTensor) -> bool:
    """Tell whether every element lies in the storage; expanded tensors, of stride 0, repeat theirs."""
    if math.prod(pending.size) == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(pending.size, pending.stride, strict=True))
    return min((pending.offset, *pending.stride)) >= 0 and pending.offset + last < pending.storage.numel
