"""The restricted unpickler: what torch saves comes back equal, and nothing that a file asks for is done."""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files import pickles
from models.checkpoints.files.pickles import LEGACY_MAGIC, LEGACY_VERSION, read_pickle
from models.checkpoints.files.unpickler import Opaque

DTYPES = (
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


class Callback:
    """Stands for Lightning's callbacks, which real checkpoints hold."""

    def __init__(self) -> None:
        self.best = {"score": 1.0}


class Evil:
    """Runs a command where it is unpickled by ordinary means."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _read_or_refused(path: Path) -> None:
    """Either plain values or the one error that names the file."""
    try:
        value, detail = read_pickle(path), str(path)
    except CheckpointError as error:
        value, detail = {}, error.detail
    assert isinstance(value, dict | Opaque)
    assert str(path) in detail


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a.float(), b.float())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("zipped", [True, False])
@settings(deadline=None, max_examples=15)
@given(shape=st.lists(st.integers(0, 4), max_size=4), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_tensors_come_back(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, shape: list[int], dtype: torch.dtype, seed: int
) -> None:
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype)
    value = {"state_dict": OrderedDict(a=x, b=x.T if x.ndim == 2 else x[..., :1] if x.ndim else x), "epoch": 3}
    path = tmp_path_factory.mktemp("pickle") / "model.ckpt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    assert _equal(read_pickle(path), value)


@pytest.mark.parametrize("zipped", [True, False])
def test_shared_storages_parameters_and_foreign_objects(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(12.0)
    value = {
        "a": base[:6],
        "b": base[6:].view(2, 3),
        "p": torch.nn.Parameter(base),
        "callbacks": {Callback: Callback()},
    }
    torch.save(value, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    read = read_pickle(tmp_path / "m.ckpt")
    for key, expected in (("a", base[:6]), ("b", base[6:].view(2, 3)), ("p", base)):
        torch.testing.assert_close(read[key], expected)
    (callback,) = read["callbacks"].values()
    assert isinstance(callback, Opaque)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_with_attributes_of_their_own_come_back_without_them(tmp_path: Path, zipped: bool) -> None:
    """Trainers that shard or count leave such on parameters."""
    value: dict[str, Any] = {"t": torch.arange(6.0).view(2, 3), "p": torch.nn.Parameter(torch.arange(4.0))}
    for tensor in value.values():
        tensor.ds_id = Callback()
    torch.save(value, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    read = read_pickle(tmp_path / "m.ckpt")
    assert read.keys() == value.keys()
    assert all(torch.equal(read[key], tensor.detach()) for key, tensor in value.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_unwanted_tensors_are_left_out(tmp_path: Path, zipped: bool) -> None:
    torch.save({"keep": torch.ones(2), "loss.x": torch.ones(3)}, tmp_path / "m", _use_new_zipfile_serialization=zipped)
    assert read_pickle(tmp_path / "m", lambda key: not key.startswith("loss.")).keys() == {"keep"}


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(tmp_path: Path, zipped: bool) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.ckpt"
    value = {"state_dict": {"w": torch.ones(1)}, "evil": Evil(f"touch {witness}")}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"evil\.ckpt: malicious: it would run {os.name}\.system when unpickled"):
        read_pickle(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the file does what it says where nothing stops it
    assert witness.exists()


ATTACKS = {
    "builtins": b"cbuiltins\neval\n(S'1/0'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__class__'\ntR.",
    "build_on_function": b"ctorch._utils\n_rebuild_tensor_v2\n(dS'x'\nI1\nsb.",
    "build_on_class": b"ccollections\nOrderedDict\n(dS'x'\nI1\nsb.",
    "codec": b"c_codecs\nencode\n(S'a'\ntR.",
    "rebuilt": b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nlen\ncbuiltins\nint\n(S'x'\nt}tR.",
    "nested": b"cos\nsystem\n(cposix\nsystem\n(S'true'\ntRtR.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hand_written_attacks_do_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + ATTACKS[name])
    _read_or_refused(path)
    assert "x" not in vars(OrderedDict)


@pytest.mark.parametrize("zipped", [True, False])
@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0, 0.999), flip=st.integers(0, 10_000))
def test_damage_is_one_error_naming_the_file(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, cut: float, flip: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / "model.ckpt"
    torch.save({"w": torch.ones(50), "n": 1}, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0xFF
    path.write_bytes(data[: int(len(data) * cut)])
    _read_or_refused(path)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.ones(2).expand(2**30, 2)}, path)
    with pytest.raises(CheckpointError, match="w: shape"):
        read_pickle(path)


def _nested(opener: bytes, doubled: bytes) -> bytes:
    """A value of 60 levels, each holding the one before it twice."""
    levels = b"".join(bytes((*opener, 0x68, i, 0x68, i, *doubled, 0x71, i + 1)) for i in range(60))
    return b"\x80\x02]q\x00" + levels


BOMBS = {
    "lists": _nested(b"(", b"l") + b".",
    "tuples": _nested(b"", b"\x86") + b".",
    "key": b"}" + _nested(b"", b"\x86")[2:] + b"K\x01s.",
    "pairs": b"ccollections\nOrderedDict\n" + _nested(b"", b"\x86")[2:] + b"K\x01\x86\x85\x85R.",
    "storage": _nested(b"(", b"l") + b"Q.",
    "storage_kind": _nested(b"(", b"l") + b"K\x01K\x01K\x01K\x01tQ.",
    "itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("zipped", [True, False])
def test_values_that_hold_one_another_take_no_longer_than_their_bytes(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", BOMBS[name])
    else:
        path.write_bytes(pickle.dumps(LEGACY_MAGIC) + pickle.dumps(LEGACY_VERSION) + BOMBS[name] * 3)
    began = time.process_time()
    with suppress(CheckpointError):
        read_pickle(path)
    assert time.process_time() - began < 5


def test_expanded_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(2.0).expand(1000, 2)}, tmp_path / "model.ckpt")
    assert torch.equal(read_pickle(tmp_path / "model.ckpt")["w"], torch.arange(2.0).expand(1000, 2))


def _packed_again(path: Path, value: Any, root: str) -> Path:
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(root + name, data)
    return path


@pytest.mark.parametrize("root", ["", "a/b/"])
def test_files_that_were_packed_again_are_read(root: str, tmp_path: Path) -> None:
    value = {"w": torch.randn(50, 50)}
    assert _equal(read_pickle(_packed_again(tmp_path / "model.ckpt", value, root)), value)


def test_what_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = _packed_again(tmp_path / "model.ckpt", {"w": torch.zeros(2**24 + 2**10)}, "m/")
    with pytest.raises(CheckpointError, match="shrink"):
        read_pickle(path)


def _storage(numel: int) -> bytes:
    return b"(S'storage'\nctorch\nByteStorage\nS'0'\nS'cpu'\nI%d\ntQ" % numel


def _tensor(numel: int) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + _storage(numel) + b"I0\n(I1\nt(I1\ntI00\nNtR"


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"\x80\x05\x96" + (2**28).to_bytes(8, "little") + b".", "byte arrays are in no checkpoint"),
        (_storage(1) + b"((I1\nI2\nt]NNtb.", "altered after it was made"),
        (b"(S'a'\n" + _tensor(600_000) + b"S'b'\n" + _tensor(600_001) + b"d.", "far more than the file holds"),
    ],
)
def test_small_files_take_neither_memory_nor_time_beyond_them(
    index: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "SMALL", 2**20)
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", index)
        archive.writestr("model/data/0", bytes(700_000))
    with pytest.raises(CheckpointError, match=says):
        read_pickle(path)
