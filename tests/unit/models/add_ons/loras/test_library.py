"""LoRAs in memory: read once, shared by equal jobs, dropped by age under a budget; replaced ones are noticed."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from core.errors import CheckpointError
from models.add_ons.shelf import Kept
from tests.loras import applied, library_of, small_sd, write_loras


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    write_loras(tmp_path)
    return tmp_path


def test_equal_jobs_share_their_adapters_and_others_have_their_own(models_dir: Path) -> None:
    library, model = library_of(models_dir), small_sd()
    one = library.adapters(model, applied(models_dir, style=0.5))
    again = library.adapters(model, applied(models_dir, style=0.5))
    other = library.adapters(model, applied(models_dir, style=0.6))
    assert one is again
    assert one is not None
    assert other is not None
    assert one.key != other.key
    assert library.adapters(model, []) is None


def test_several_add_up(models_dir: Path) -> None:
    library, model = library_of(models_dir), small_sd()
    both = library.adapters(model, applied(models_dir, style=0.5, peft=-2.0))
    assert both is not None
    parts = [
        (library.adapters(model, applied(models_dir, **{name: 1.0})), s) for name, s in (("style", 0.5), ("peft", -2.0))
    ]
    for name, product in both.unet.items():
        wanted = sum(
            scale * (part.unet[name].up.T @ part.unet[name].down.flatten(1))
            for part, scale in parts
            if part is not None and name in part.unet
        )
        torch.testing.assert_close(product.up.T @ product.down.flatten(1), wanted)


def test_the_least_recently_used_goes_when_the_budget_is_spent(models_dir: Path) -> None:
    model = small_sd()
    sizes = {}
    for name in ("style", "conv", "peft"):
        kept = Kept(1 << 30)
        library_of(models_dir, kept).adapters(model, applied(models_dir, **{name: 1.0}))
        sizes[name] = kept.bytes
    kept = Kept(sizes["style"] + sizes["peft"])
    library = library_of(models_dir, kept)
    for name in ("style", "conv", "style", "peft"):
        library.adapters(model, applied(models_dir, **{name: 1.0}))
    assert kept.bytes == sizes["style"] + sizes["peft"]
    nothing = Kept(0)
    assert library_of(models_dir, nothing).adapters(model, applied(models_dir, style=1.0)) is not None
    assert nothing.bytes == 0


def test_what_is_larger_than_the_budget_takes_nobody_s_place() -> None:
    kept, loads = Kept(2), list[str]()

    def get(key: str, size: int) -> set[str]:
        def load() -> set[str]:
            loads.append(key)
            return {key}

        return kept.get(key, load, lambda _: size)

    held = [get("small", 1), get("large", 3), get("small", 1), get("large", 3)]
    assert (loads, kept.bytes) == (["small", "large"], 1)
    del held
    gc.collect()
    assert (get("small", 1), get("large", 3)) == ({"small"}, {"large"})
    assert loads == ["small", "large", "large"]


def test_a_file_that_was_touched_is_the_same_and_one_that_was_replaced_is_not(models_dir: Path) -> None:
    library, asked = library_of(models_dir), applied(models_dir, style=1.0)
    file = models_dir / "Lora" / "style.safetensors"
    os.utime(file, ns=(1, 1))
    assert library.adapters(small_sd(), asked) is not None
    library = library_of(models_dir)
    file.write_bytes((models_dir / "Lora" / "conv.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="'style' was replaced since the job was accepted"):
        library.adapters(small_sd(), asked)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"style\.safetensors"):
        library.adapters(small_sd(), asked)


def test_one_that_is_not_here_is_named(models_dir: Path) -> None:
    asked = [lora.model_copy(update={"id": "gone"}) for lora in applied(models_dir, style=1.0)]
    with pytest.raises(CheckpointError, match="'gone' isn't here"):
        library_of(models_dir).adapters(small_sd(), asked)
