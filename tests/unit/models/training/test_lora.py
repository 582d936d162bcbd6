"""LoRA fine-tuning: the loss falls, files of both layouts draw as the products did, runs resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from core.errors import ConfigurationError
from models.add_ons.loras.inspect import inspect_lora
from models.add_ons.loras.library import load_lora
from models.checkpoints.layouts.native import save_native
from models.checkpoints.load import load
from models.inputs import Inputs
from models.networks.adapters import RowAdapters, adapted
from models.networks.conditioning import TextEncoder
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import LoraRun
from models.training.lora.products import Products
from models.training.lora.run import run_lora
from models.training.lora.write import write_lora
from tests.tiny import configs, random_weights, tiny_tokenizer, write_tiny
from tests.training import SIZE, autoencoder_run, ldm_run, losses, train, write_balls

SD1 = Path("tests/parity/cases/text/sd1_prompts/pipeline")
TEXT = {"kind": "text", "width": 16, "layers": 1, "heads": 2, "window": 8, "trained": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a text model that knows little of it."""
    made = tmp_path_factory.mktemp("lora")
    write_balls(made / "data")
    train(autoencoder_run(made, steps=60, save_every=60))
    train(ldm_run(made, condition=TEXT, steps=40, save_every=40))
    return made


def lora_run(folder: Path, **changes: Any) -> LoraRun:
    """A LoRA of that model on the same data."""
    fields: dict[str, Any] = dict(
        out=folder / "lora",
        model=folder / "ldm" / "checkpoint",
        steps=60,
        batch=8,
        data={"folder": folder / "data", "size": SIZE},
        optimizer={"learning_rate": 1e-2, "warmup": 5},
        cache={"folder": folder / "cache"},
        precision="float32",
        ema=0.9,
        rank=4,
        targets="all",
        text=True,
        save_every=30,
        log_every=1,
        sample_every=60,
        sample_steps=3,
        guidance_scale=2.0,
    )
    return LoraRun.model_validate(fields | changes)


def run(config: LoraRun, until: int | None = None) -> list[float]:
    """Train, or stop after step `until`; the losses so far."""
    seen: list[int] = []
    run_lora(config, "cpu", report=lambda p: seen.append(p.step), stop=lambda: until is not None and seen[-1] >= until)
    return losses(config.out)


def learnt(config: LoraRun) -> tuple[LatentDiffusion, Products]:
    """The model of a run, and products as if it had been trained."""
    model = load(config.model)
    torch.manual_seed(1)
    products = Products(model, config)
    for product in products:
        torch.nn.init.normal_(product.up, std=0.3)
    config.out.mkdir()
    return model, products


def test_the_loss_falls_and_the_file_is_a_lora(folder: Path) -> None:
    values = run(lora_run(folder))
    assert mean(values[-15:]) < 0.8 * mean(values[:15])
    report = inspect_lora(folder / "lora" / "lora.safetensors")
    assert report is not None
    assert {part.name for part in report.parts} == {"unet", "te1"}


@pytest.mark.parametrize("layout", ["kohya", "peft"])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_a_file_draws_as_the_products_did(folder: Path, layout: str, targets: str) -> None:
    """Served beside the layers, or merged into them: what the network answers is what it answered in training."""
    config = lora_run(folder, layout=layout, targets=targets, alpha=2.0, out=folder / f"{layout}-{targets}")
    model, products = learnt(config)
    served = load_lora(write_lora(config, products), model)
    ids, mask = model.tokenizers[0](["red ball", "blue ball"])
    z_t, timesteps = torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        trained = products(z_t, timesteps, {"ids": ids, "mask": mask})
        assert isinstance(model.conditioner, TextEncoder)
        with adapted(model.conditioner, RowAdapters([served.text] * 2, apart=False)):
            context = model.conditioner([(ids, mask)]).context
        beside = model.predict(z_t, timesteps, Inputs(context=context), RowAdapters([served.unet] * 2, apart=False))
        encoder = products.merged(model.conditioner, "text")
        unet = products.merged(model.unet, "unet")
        merged = unet(z_t, timesteps, encoder([(ids, mask)]).context)
        plain = model.predict(z_t, timesteps, Inputs(context=model.conditioner([(ids, mask)]).context))
    assert torch.allclose(beside, trained, atol=1e-5)
    assert torch.allclose(merged, trained, atol=1e-4)
    assert not torch.allclose(plain, trained, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers, peft and accelerate
@pytest.mark.parametrize("layout", ["kohya", "peft"])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_diffusers_draws_the_same_with_a_file(tmp_path: Path, layout: str, targets: str) -> None:
    from diffusers import StableDiffusionPipeline

    config = lora_run(tmp_path, model=SD1, layout=layout, targets=targets, alpha=2.0, out=tmp_path / "style")
    model, products = learnt(config)
    theirs: Any = StableDiffusionPipeline
    theirs = theirs.from_pretrained(config.model, torch_dtype=torch.float32)
    ids, mask = model.tokenizers[0](["a cat"])
    z_t, timesteps = torch.randn(1, 4, 16, 16), torch.tensor([500])
    seen = []
    with torch.no_grad():
        for file in (None, write_lora(config, products)):
            if file is not None:
                theirs.load_lora_weights(file)
            context = theirs.text_encoder(ids, return_dict=False)[0]
            seen.append(theirs.unet(z_t, timesteps, context, return_dict=False)[0])
        trained = products(z_t, timesteps, {"ids": ids, "mask": mask})
    assert torch.allclose(seen[1], trained, atol=1e-4)
    assert not torch.allclose(seen[0], trained, atol=1e-2)


def test_a_file_in_the_folder_where_the_command_runs_has_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "style").mkdir()
    monkeypatch.chdir(folder / "style")
    config = lora_run(folder, out=".")
    assert write_lora(config, Products(load(config.model), config)) == Path("style.safetensors")


def test_it_goes_on_where_it_stopped_with_the_towers_frozen(folder: Path) -> None:
    whole = run(lora_run(folder, text=False, steps=6, save_every=2, out=folder / "whole"))
    pieces = lora_run(folder, text=False, steps=6, save_every=2, out=folder / "pieces")
    run(pieces, until=3)
    assert run(pieces) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("kind", ["depth", "edit", "x4", "lcm"])
def test_a_model_that_reads_more_than_its_training_gives_is_refused_before_anything_is_encoded(
    folder: Path, kind: str
) -> None:
    if kind == "lcm":
        plain = configs()["plain"]
        loaded = random_weights(replace(plain, unet=replace(plain.unet, guidance_dim=8)), 0, tiny_tokenizer())
        save_native(loaded, folder / kind)
    else:
        write_tiny(kind, folder / kind)
    cache = {"folder": folder / f"{kind}-cache"}
    with pytest.raises(ConfigurationError, match="reads more than a text and a mask"):
        run(lora_run(folder, model=folder / kind, text=False, cache=cache, out=folder / f"{kind}-lora"))
    assert not (folder / f"{kind}-cache").exists()


def test_a_model_without_text_is_refused(folder: Path) -> None:
    write_tiny("class", folder / "class")
    with pytest.raises(ConfigurationError, match="one text tower"):
        run(lora_run(folder, model=folder / "class", out=folder / "class-lora"))
