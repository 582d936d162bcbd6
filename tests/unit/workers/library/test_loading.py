from __future__ import annotations

import re
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from structlog.testing import capture_logs

from core.errors import CheckpointError, ConfigurationError
from core.settings import Settings
from models.checkpoints.load import load
from models.networks.layers import can_pack, packed
from tests.engines import make_request
from tests.tiny import write_tiny
from workers.engine.engine import run
from workers.engine.messages import Admission
from workers.library import loading
from workers.library.catalogue import find_cards, write_missing_cards
from workers.library.library import offered
from workers.library.loading import choose_device, choose_dtype, load_engine, open_library


def test_the_cpu_is_taken_by_name() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["toaster", "meta", "mps", "cpu:0", "cuda:x", ""])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--device '{name}': must be auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_beyond_the_last_is_named() -> None:
    last = torch.cuda.device_count() - 1
    assert choose_device(f"cuda:{last}") == f"cuda:{last}"
    with pytest.raises(ConfigurationError, match=f"the last GPU is cuda:{last}"):
        choose_device(f"cuda:{last + 1}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigurationError, match=f"torch {re.escape(torch.__version__)} finds no GPU"):
        choose_device("cuda:0")


def test_a_driver_that_is_too_old_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as NVML counts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="finds no GPU that it can use"):
        choose_device("cuda")


def test_cuda_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_auto_is_the_half_precision_that_a_card_multiplies(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype("auto", "cuda:0") == dtype
    assert choose_dtype("float32", "cuda:0") == torch.float32


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({"architecture": "arm"}, torch.float32),
    ],
)
def test_auto_on_a_cpu_is_what_it_multiplies(
    flags: dict[str, object], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert choose_dtype("auto", "cpu") == dtype
    assert choose_dtype("float32", "cpu") == torch.float32


def test_any_precision_can_be_asked_for(tmp_path: Path) -> None:
    write_tiny("plain", tmp_path / "plain")
    settings = Settings(models_dir=tmp_path, threads=1, dtype="bfloat16")
    engine = load_engine(settings, ["plain"], "cpu")
    model = engine.models["plain"]
    assert model.dtype == torch.bfloat16
    assert packed(model.unet) == can_pack(model.device, model.dtype)
    [known] = open_library(settings, ["plain"], "cpu").offered.values()
    assert (known.packed, known.dtype) == (packed(model.unet), model.dtype)
    told = engine.numerics(known.dtype, known.packed).memory_format
    assert told == ("onednn" if packed(model.unet) else "channels_last")
    request = make_request(model="plain")
    [picture] = run(engine, Admission("a", request), lambda _: None)
    assert picture.size == (64, 64)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Three good checkpoints, and a damaged one that has a card."""
    for kind in ("plain", "map", "bare"):
        write_tiny(kind, tmp_path / kind)
    weights = next((write_tiny("x4", tmp_path / "x4")).rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    return tmp_path


def test_a_damaged_checkpoint_does_not_harm_the_others(broken: Path) -> None:
    settings = Settings(models_dir=broken, threads=1)
    with capture_logs() as lines:
        engine = load_engine(settings, [], "cpu")
    assert sorted(engine.models) == ["bare", "map", "plain"]
    assert [(line["event"], line["model"]) for line in lines] == [("checkpoint left out", "x4")]
    with pytest.raises(CheckpointError, match="safetensors"):
        load_engine(settings, ["x4"], "cpu")


def test_models_beyond_the_default_ones_are_loaded_while_there_is_room(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models_dir=broken, threads=1, model="plain")
    monkeypatch.setattr(loading, "free_memory", lambda _: 1 << 30)
    library = open_library(settings, [], "cpu")
    assert list(library.resident) == list(library.offered) == ["plain", "map", "bare"]
    sizes = {model.id: model.size for model in library.offered.values()}
    monkeypatch.setattr(loading, "free_memory", lambda _: 2 * (sizes["plain"] + sizes["map"]))
    library = open_library(settings, [], "cpu")
    assert (list(library.resident), list(library.offered)) == (["plain", "map"], ["plain", "map", "bare"])


def test_what_can_not_fit_is_told_and_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny("plain", tmp_path / "plain")
    write_tiny("bare", tmp_path / "bare")
    size = offered("bare", tmp_path / "bare", "cpu", torch.float32).size
    monkeypatch.setattr(loading, "MIB", size)
    settings = Settings(models_dir=tmp_path, threads=1, model="plain", models_mb=1, dtype="float32")
    with capture_logs() as lines:
        library = open_library(settings, [], "cpu")
    assert list(library.resident) == list(library.offered) == ["bare"]
    assert [(line["event"], line["model"]) for line in lines] == [("model not offered: it doesn't fit", "plain")]
    with pytest.raises(ConfigurationError, match="LATENTD_MODELS_MB=1: model plain takes 2 MiB") as raised:
        open_library(settings, ["plain"], "cpu")
    assert (raised.value.field, raised.value.value, raised.value.bound) == ("LATENTD_MODELS_MB", 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_size_is_what_the_weights_take(dtype: torch.dtype, tmp_path: Path) -> None:
    for kind in ("plain", "bare", "class"):
        folder = write_tiny(kind, tmp_path / kind)
        model = load(folder, "cpu", dtype)
        parts = [part for part in (model.unet, model.first_stage, model.conditioner) if part is not None]
        taken = sum(value.nbytes for part in parts for value in part.state_dict().values())
        assert offered(kind, folder, "cpu", dtype).size == pytest.approx(taken, rel=0.05), kind


def test_where_nothing_loads_the_names_are_said(broken: Path) -> None:
    for kind in ("plain", "map", "bare"):
        rmtree(broken / kind)
    with pytest.raises(ConfigurationError, match="none of the checkpoints x4 loads"):
        open_library(Settings(models_dir=broken, threads=1, model="x4"), [], "cpu")


def test_scanning_writes_cards_and_names_what_it_leaves_out(broken: Path) -> None:
    (broken / "bare" / "card.json").unlink()
    (broken / "x4" / "card.json").unlink()
    (broken / "note.ckpt").write_bytes(b"no checkpoint")
    with capture_logs() as lines:
        write_missing_cards(broken)
    said = sorted((line["event"], Path(line["path"]).name) for line in lines)
    assert said == [("card written", "card.json"), ("checkpoint left out", "note.ckpt"), ("checkpoint left out", "x4")]
    assert sorted(find_cards(broken)) == ["bare", "map", "plain"]
