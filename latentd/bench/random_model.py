"""Models of a given shape with random weights: speed doesn't depend on what a network has learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from contract.card import ModelCard
from models.checkpoints.card import default_card
from models.checkpoints.checkpoint import Checkpoint, makers
from models.checkpoints.load import assemble
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.conditioning import TextConfig, TowerConfig
from models.networks.unet import UNet, UNetConfig
from models.pipeline.config import ModelConfig
from models.pipeline.denoiser import Denoiser
from models.pipeline.pipeline import LatentDiffusion
from models.schedule import NoiseSchedule
from models.tokenizers.prompts import PromptTokenizer, padded
from models.tokenizers.vocabularies import bert_tokenizer
from workers.library.loading import ready

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
END = "[SEP]"  # the last one of the vocabulary, where CLIP has it
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WINDOW = 77  # tokens of a stand-in
TINY = 32  # channels of the first level of a network made tiny; its norms have as many groups


def stand_in_text(*widths: int, pooled: int | None = None) -> TextConfig:
    """Shape text encoders of one layer, of which the last also has a pooled vector where its width is given.

    A prompt is encoded once a job, so that their depth doesn't tell in a bench of steps.
    """
    *first, last = (_tower(width, "ldm" if pooled is None else "clip") for width in widths)
    return TextConfig((*first, replace(last, pooled=pooled)))


def _tower(width: int, kind: Literal["ldm", "clip"]) -> TowerConfig:
    size = len(SPECIAL) + 2 * len(LETTERS) + 1
    heads = 8 if kind == "ldm" else max(1, width // 64)
    return TowerConfig(kind, size, width, layers=1, heads=heads, head_dim=64, mlp=width, positions=WINDOW)


def stand_in_tokenizer() -> PromptTokenizer:
    """Letter by letter, with BERT's special tokens."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), END]
    return padded(bert_tokenizer({piece: i for i, piece in enumerate(pieces)}), WINDOW, "[PAD]")


def random_checkpoint(config: ModelConfig, device: str) -> Checkpoint:
    """Draw the weights as torch initialises layers, on the device itself, which takes moments on a GPU."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        states = {part: dict(make().state_dict()) for part, make in makers(config).items()}
    return Checkpoint(config, states, stand_in_tokenizers(config))


def stand_in_tokenizers(config: ModelConfig) -> tuple[PromptTokenizer, ...]:
    """Make one for each text encoder of the model."""
    text = config.conditioner
    return tuple(stand_in_tokenizer() for _ in text.towers) if isinstance(text, TextConfig) else ()


def loaded(checkpoint: Checkpoint, name: str, device: str, dtype: torch.dtype) -> LatentDiffusion:
    """Make the pipeline as a worker has it; the checkpoint can be loaded again in another precision."""
    return ready(assemble(replace(checkpoint, states=dict(checkpoint.states)), name, device, dtype))


def card_of(checkpoint: Checkpoint, name: str) -> ModelCard:
    return ModelCard.model_validate(default_card(checkpoint, name, "random"))


def unallocated(config: ModelConfig, name: str, tokenizers: tuple[PromptTokenizer, ...]) -> LatentDiffusion:
    """Make a model without storage, whose arithmetic can be counted and not done."""
    meta = torch.device("meta")
    with meta:
        unet, first_stage = UNet(config.unet), Autoencoder(config.first_stage)
    denoiser = Denoiser(unet, meta, torch.float32)
    return LatentDiffusion(name, config, NoiseSchedule(config.schedule), denoiser, first_stage, None, tokenizers)


def tiny(config: ModelConfig) -> ModelConfig:
    """Make networks of the same layers, a few channels wide: to see that a bench runs."""
    unet, text, first_stage = _narrow(config.unet), config.conditioner, _narrow_first_stage(config.first_stage)
    if not isinstance(text, TextConfig):
        context = None if unet.context_dim is None else TINY
        return replace(config, unet=replace(unet, context_dim=context), first_stage=first_stage)
    pooled = None if text.pooled is None else TINY
    few = stand_in_text(*(TINY for _ in text.towers), pooled=pooled)
    added = None if pooled is None else pooled + config.added_numbers * unet.added_sinusoids
    unet = replace(unet, context_dim=few.width, added_dim=added)
    return replace(config, unet=unet, first_stage=first_stage, conditioner=few)


def _narrow(unet: UNetConfig) -> UNetConfig:
    channels = _few(unet.channels)
    return replace(unet, channels=channels, heads=(1,) * len(channels), mid_heads=1)


def _narrow_first_stage(config: AutoencoderConfig) -> AutoencoderConfig:
    stem = _few((config.stem,))[0]
    return replace(config, channels=_few(config.channels), stem=stem, codebook=min(config.codebook, 64))


def _few(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Keep about the ratios, in multiples of what norms divide."""
    return tuple(min(width, TINY * (width // channels[0])) for width in channels)
