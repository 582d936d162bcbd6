"""Torch checkpoints (.ckpt, .bin, .pt) without pickle's danger: only tensors and plain containers are ever made.

Both layouts of torch.save are read: zip archives (1.6 and later) and the older stream of pickles. Every global that a
file names is looked up in a closed table; all others, such as Lightning's callbacks, become inert placeholders, so that
nothing in the file is ever called. A file that names what runs commands is refused: nobody should pass it on.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from core.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


# No honest checkpoint names these. It is the table below that keeps them from running, not this list.
_ACTING_MODULES = frozenset(
    ("os", "posix", "nt", "subprocess", "sys", "shutil", "runpy", "importlib", "imp", "socket", "ctypes", "pty", "code")
)
_ACTING_BUILTINS = frozenset(("eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__"))


class Opaque:
    """Stands for any object that is neither tensor nor container; takes what the pickle does to it, keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Opaque:
        del args, kwargs
        return self

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        del value

    def extend(self, values: Any) -> None:
        del values


@dataclass(frozen=True, slots=True)
class StorageKind:
    """What `torch.HalfStorage` and its like mean in a pickle."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage of the file, not read yet."""

    key: str
    dtype: torch.dtype
    numel: int
    offset: int = 0  # elements into the storage `key`; views of the legacy layout


@dataclass(frozen=True, slots=True)
class PendingTensor:
    """A tensor of the file, not read yet; `read_pickle` replaces it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Rebuild:
    """torch._utils._rebuild_*; an object without attributes, so that a pickle can't alter it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> PendingTensor:
        del rest  # gradient flags and hooks
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("tensor without a storage")
        return PendingTensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


class _RebuildParameter:
    """torch._utils._rebuild_parameter: the tensor that it wraps."""

    __slots__ = ()

    def __call__(self, data: Any, *rest: Any) -> Any:
        del rest
        return data


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return StorageKind(STORAGES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _Rebuild()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module.partition(".")[0] in _ACTING_MODULES or (
            module in ("builtins", "__builtin__") and name in _ACTING_BUILTINS
        ):
            raise CheckpointError(f"malicious: it would run {module}.{name} when unpickled", value=f"{module}.{name}")
        return type(name, (Opaque,), {})

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(storage, StorageKind):
            raise pickle.UnpicklingError(f"unknown kind of storage {kind!r}")
        if view and view[0] is not None:
            _, offset, numel = view[0]
            return Storage(str(key), storage.dtype, int(numel), int(offset))
        return Storage(str(key), storage.dtype, int(numel))


Wanted = Callable[[str], bool]


def read_pickle(path: Path, wanted: Wanted | None = None) -> Any:
    """Read the object that torch.save wrote, its tensors if `wanted` says so of their key (default: all).

    Containers come back as dict, list and tuple; other objects as Opaque. Executes nothing of the file.

    Raises:
        CheckpointError: naming the file, and the key where a tensor is damaged.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(ZIP_MAGIC))
            stream.seek(0)
            return (_read_zip if magic == ZIP_MAGIC else _read_legacy)(stream, wanted or (lambda _: True))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.detail}", field=error.field) from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, struct.error) as error:
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged ({error})") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, RecursionError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged ({error})") from error


def _read_zip(stream: IO[bytes], wanted: Wanted) -> Any:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        index = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
        if index is None:
            raise CheckpointError("a zip archive without data.pkl, not a torch checkpoint")
        root = index.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise CheckpointError("written in big-endian byte order, which is not supported")
        with archive.open(index) as data:
            value = _Unpickler(data).load()
        return _Reader(lambda storage: _zip_storage(archive, f"{root}data/{storage.key}", storage), wanted).walk(value)


def _zip_storage(archive: zipfile.ZipFile, name: str, storage: Storage) -> Tensor:
    info = archive.getinfo(name)
    needed = storage.numel * storage.dtype.itemsize
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < needed:
        raise CheckpointError(f"{name} holds {info.file_size} bytes, {needed} uncompressed ones are needed")
    return _tensor(archive.read(info), storage.dtype, storage.numel)


def _read_legacy(stream: IO[bytes], wanted: Wanted) -> Any:
    if _Unpickler(stream).load() != LEGACY_MAGIC or _Unpickler(stream).load() != LEGACY_VERSION:
        raise CheckpointError("not a torch checkpoint")
    if not dict(_Unpickler(stream).load()).get("little_endian", True):
        raise CheckpointError("written in big-endian byte order, which is not supported")
    value = _Unpickler(stream).load()
    positions = {str(key): 0 for key in _Unpickler(stream).load()}
    reader = _Reader(lambda storage: _legacy_storage(stream, positions, storage), wanted)
    _legacy_positions(stream, positions, reader.storages(value))
    return reader.walk(value)


def _legacy_positions(stream: IO[bytes], positions: dict[str, int], dtypes: dict[str, torch.dtype]) -> None:
    """Find where each storage's elements start: one follows another, each after its element count (little-endian)."""
    for key in positions:
        (numel,) = struct.unpack("<q", stream.read(8))
        positions[key] = stream.tell()
        stream.seek(numel * dtypes[key].itemsize, 1)


def _legacy_storage(stream: IO[bytes], positions: dict[str, int], storage: Storage) -> Tensor:
    size = storage.dtype.itemsize
    stream.seek(positions[storage.key] + storage.offset * size)
    return _tensor(stream.read(storage.numel * size), storage.dtype, storage.numel)


def _tensor(data: bytes, dtype: torch.dtype, numel: int) -> Tensor:
    if len(data) < numel * dtype.itemsize:
        raise CheckpointError(f"truncated: {len(data)} bytes where {numel * dtype.itemsize} are needed")
    return torch.frombuffer(bytearray(data), dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)


class _Reader:
    """Replaces pending tensors by real ones; tensors of one storage share its memory."""

    def __init__(self, read: Callable[[Storage], Tensor], wanted: Wanted) -> None:
        self._read = read
        self._wanted = wanted
        self._cache: dict[Storage, Tensor] = {}

    def storages(self, value: Any) -> dict[str, torch.dtype]:
        """Collect the element types of all storages that `value` refers to."""
        if isinstance(value, PendingTensor):
            return {value.storage.key: value.storage.dtype}
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return {key: dtype for child in children for key, dtype in self.storages(child).items()}

    def walk(self, value: Any, key: str = "") -> Any:
        if isinstance(value, PendingTensor):
            return self._tensor(value, key)
        if isinstance(value, dict):
            kept = ((k, self.walk(v, str(k))) for k, v in value.items())
            return {k: v for k, v in kept if not isinstance(v, PendingTensor)}
        if isinstance(value, list | tuple):
            return [self.walk(item, key) for item in value]
        return value

    def _tensor(self, pending: PendingTensor, key: str) -> Tensor | PendingTensor:
        if not self._wanted(key):
            return pending
        if math.prod(pending.size) > pending.storage.numel:
            raise CheckpointError(f"{key}: shape {list(pending.size)} exceeds its storage", field=key)
        if pending.storage not in self._cache:
            self._cache[pending.storage] = self._read(pending.storage)
        return self._cache[pending.storage].as_strided(pending.size, pending.stride, pending.offset)
