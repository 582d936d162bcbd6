"""The pickles inside torch checkpoints, of which tensors and plain containers alone are ever made.

Every global that a file names is looked up in a closed table; all others, such as Lightning's callbacks, become inert
placeholders, so that nothing in the file is ever called. A file that names what runs commands is refused: nobody should
pass it on.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar

import torch

from core.errors import CheckpointError

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
    "UntypedStorage": torch.uint8,  # of tensors that bring their element type themselves
}
DTYPES = {
    name: getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32", "float64", "uint8", "int64")
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


class _RebuildTyped:
    """torch._utils._rebuild_tensor_v3: a tensor of an untyped storage."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> PendingTensor:
        _, _, dtype, *_ = rest
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("tensor without a storage or element type")
        typed = Storage(storage.key, dtype, storage.numel * storage.dtype.itemsize // dtype.itemsize)
        return _Rebuild()(typed, offset, size, stride)


class _RebuildParameter:
    """torch._utils._rebuild_parameter: the tensor that it wraps."""

    __slots__ = ()

    def __call__(self, data: Any, *rest: Any) -> Any:
        del rest
        return data


class _RebuildWithAttributes:
    """torch._tensor._rebuild_from_type_v2: a tensor that has attributes of its own in Python, which are left out."""

    __slots__ = ()

    def __call__(self, rebuild: Any, kind: Any, args: Any, state: Any) -> Any:
        del kind, state
        return rebuild(*args) if isinstance(rebuild, _Rebuild | _RebuildTyped | _RebuildParameter) else Opaque()


class _OrderedDict:
    """collections.OrderedDict, whose items old pickles give as a list of pairs."""

    __slots__ = ()

    def __call__(self, items: Any = ()) -> OrderedDict[Any, Any]:
        return OrderedDict((_plain(key), value) for key, value in items)


class _Parameters(dict[Any, Any]):
    """torch.nn.ParameterDict, of which the parameters by name are kept: the first embeddings were saved as one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        self.update(parameters if isinstance(parameters, dict) else {})


def _plain(key: Any) -> Any:
    """Refuse containers as keys: hashing tuples of tuples of tuples takes time exponential in the file's size."""
    if not isinstance(key, str | int | float | bytes | NoneType | type | Opaque):
        raise pickle.UnpicklingError(f"a dict key of type {type(key).__name__}")
    return key


_STANDARD: dict[int, Any] = dict(pickle._Unpickler.dispatch)


class Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, so that keys can be looked at before they are hashed."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(_STANDARD)

    def load_setitem(self) -> None:
        _plain(self.stack[-2])
        _STANDARD[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _plain(key)
        _STANDARD[pickle.SETITEMS[0]](self)

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            _plain(key)
        _STANDARD[pickle.DICT[0]](self)

    def load_build(self) -> None:
        if isinstance(self.stack[-2], Storage | StorageKind | PendingTensor):
            raise pickle.UnpicklingError("a tensor is altered after it was made")
        _STANDARD[pickle.BUILD[0]](self)

    def load_unknown(self) -> None:
        """Sets hash what they hold; byte arrays are made as long as they say, before anything of them is read."""
        raise pickle.UnpicklingError("sets and byte arrays are in no checkpoint")

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.FROZENSET[0]] = load_unknown
    dispatch[pickle.BYTEARRAY8[0]] = load_unknown

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return StorageKind(STORAGES[name])
        if (module, name) in _MADE:
            return _MADE[module, name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module.partition(".")[0] in _ACTING_MODULES or (
            module in ("builtins", "__builtin__") and name in _ACTING_BUILTINS
        ):
            raise CheckpointError(f"malicious: it would run {module}.{name} when unpickled", value=f"{module}.{name}")
        return type(name, (Opaque,), {})

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(storage, StorageKind) or not isinstance(key, str | int):
            raise pickle.UnpicklingError("unknown kind of storage")
        if view and view[0] is not None:
            _, offset, numel = view[0]
            return Storage(str(key), storage.dtype, int(numel), int(offset))
        return Storage(str(key), storage.dtype, int(numel))


_MADE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict(),
    ("torch._utils", "_rebuild_tensor"): _Rebuild(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTyped(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildWithAttributes(),
    ("torch.nn.modules.container", "ParameterDict"): _Parameters,
}
