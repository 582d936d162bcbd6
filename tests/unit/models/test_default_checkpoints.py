"""The committed checkpoints through our networks and samplers against diffusers, on the same inputs, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.bert.tokenization_bert import BertTokenizer

import models
from contract.card import ModelCard
from models.checkpoints.card import weights_hash
from models.checkpoints.load import load
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers import compile_plan

WEIGHTS = Path(models.__file__).parent / "weights"
EMOJI, UPSCALE = WEIGHTS / "emoji", WEIGHTS / "emoji-upscale"
PROMPTS = ("red heart", "a cat on a navy background", "")


@pytest.fixture(scope="module")
def emoji() -> LatentDiffusion:
    return load(EMOJI)


@pytest.fixture(scope="module")
def upscale() -> LatentDiffusion:
    return load(UPSCALE)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _theirs(cls: Any, folder: Path) -> Any:
    return cls.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)


def _ddim(folder: Path, network: Any, z: Tensor, steps: int) -> Tensor:
    ddim: Any = diffusers.DDIMScheduler
    scheduler = ddim.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t), t, z).prev_sample
    return z


@pytest.mark.parametrize("folder", [EMOJI, UPSCALE])
def test_card_describes_the_weights(folder: Path) -> None:
    card = ModelCard.model_validate(json.loads((folder / "card.json").read_text("utf-8")))
    model = load(folder)
    assert card.id == model.id == folder.name
    assert card.hash == weights_hash(folder)
    assert card.latent_factor == model.latent_factor
    assert card.token_window == model.token_window
    assert card.prediction_type == model.config.schedule.prediction


def test_context_equals_transformers(emoji: LatentDiffusion) -> None:
    encoder = _theirs(BertModel, EMOJI / "text_encoder")
    tokenizer = BertTokenizer.from_pretrained(EMOJI / "tokenizer")
    tokens = tokenizer(list(PROMPTS), padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    expected = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    torch.testing.assert_close(emoji.encode_prompts(PROMPTS).context, expected, atol=1e-5, rtol=0)


def test_long_prompts_are_cut_to_the_window(emoji: LatentDiffusion) -> None:
    assert emoji.encode_prompts(["heart " * 100]).context.shape == (1, 32, 384)


def test_text_model_samples_as_diffusers(emoji: LatentDiffusion) -> None:
    unet = _theirs(diffusers.UNet2DConditionModel, EMOJI / "unet")
    context, null = (emoji.encode_prompts([text]).context for text in ("red heart", ""))
    z, concat = _noise(1, 16, 16, 16), emoji.blank_concat(16, 16)
    both = torch.cat([null, context])

    def network(z_t: Tensor, t: Tensor) -> Tensor:
        x = torch.cat([z_t, concat], dim=1)
        out_u, out_c = unet(torch.cat([x, x]), t, both).sample.chunk(2)
        return out_u + 4.0 * (out_c - out_u)  # type: ignore[no-any-return]

    plan = compile_plan("ddim", emoji.schedule, 3)
    ours = sample(emoji, plan, z, Conditioning(Inputs(context, concat), Inputs(null, concat), 4.0))
    torch.testing.assert_close(ours, _ddim(EMOJI, network, z, 3), atol=1e-3, rtol=0)
    row = emoji.predict(z, torch.tensor([501.0]), Inputs(context, concat))
    expected = unet(torch.cat([z, concat], dim=1), 501, context).sample
    torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_text_first_stage_equals_diffusers(emoji: LatentDiffusion) -> None:
    vae = _theirs(diffusers.AutoencoderKL, EMOJI / "vae")
    z, x = _noise(1, 16, 8, 12), _noise(1, 3, 128, 192, seed=1)
    scale = vae.config.scaling_factor
    torch.testing.assert_close(emoji.decode(z), vae.decode(z / scale).sample, atol=1e-4, rtol=0)
    torch.testing.assert_close(emoji.encode_images(x), vae.encode(x).latent_dist.mode() * scale, atol=1e-4, rtol=0)


def test_inpainting_reads_mask_and_masked_picture(emoji: LatentDiffusion) -> None:
    x, mask = _noise(1, 3, 64, 64).clamp(-1, 1), torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1.0
    concat = emoji.inpaint_concat(x, mask)
    torch.testing.assert_close(concat[:, :1], torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], dim=3))
    torch.testing.assert_close(concat[:, 1:], emoji.encode_images(x * (mask < 0.5)))
    assert emoji.blank_concat(4, 4) is emoji.blank_concat(4, 4)


def test_upscaler_samples_as_diffusers(upscale: LatentDiffusion) -> None:
    unet = _theirs(diffusers.UNet2DModel, UPSCALE / "unet")
    z, small = _noise(1, 3, 24, 32), _noise(1, 3, 24, 32, seed=1).clamp(-1, 1)

    def network(z_t: Tensor, t: Tensor) -> Tensor:
        return unet(torch.cat([z_t, small], dim=1), t).sample  # type: ignore[no-any-return]

    plan = compile_plan("ddim", upscale.schedule, 5)
    ours = sample(upscale, plan, z, Conditioning(Inputs(concat=upscale.low_res_concat(small))))
    torch.testing.assert_close(ours, _ddim(UPSCALE, network, z, 5), atol=1e-3, rtol=0)


def test_upscaler_first_stage_equals_diffusers(upscale: LatentDiffusion) -> None:
    vae = _theirs(diffusers.VQModel, UPSCALE / "vqvae")
    x = _noise(1, 3, 64, 96).clamp(-1, 1)
    z = upscale.encode_images(x)
    torch.testing.assert_close(z, vae.encode(x).latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(upscale.decode(z), vae.decode(z).sample, atol=1e-4, rtol=0)
