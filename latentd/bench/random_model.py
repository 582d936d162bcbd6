"""Models of a given shape with random weights: speed doesn't depend on what a network has learnt."""

from __future__ import annotations

from dataclasses import replace

import torch

from contract.card import ModelCard
from models.checkpoints.card import default_card
from models.checkpoints.checkpoint import Checkpoint, makers
from models.checkpoints.load import assemble
from models.config import ModelConfig
from models.denoiser import Denoiser
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.conditioning import TextConfig
from models.networks.unet import UNet, UNetConfig
from models.pipeline import LatentDiffusion
from models.schedule import NoiseSchedule
from models.tokenizers.prompts import PromptTokenizer, padded
from models.tokenizers.vocabularies import bert_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WINDOW = 77  # tokens of a stand-in
TINY = 32  # channels of the first level of a network made tiny; its norms have as many groups


def stand_in_text(width: int, window: int = WINDOW) -> TextConfig:
    """Shape a text encoder of one layer: a prompt is encoded once a job, so that its depth doesn't tell in a bench of
    steps."""
    size = len(SPECIAL) + 2 * len(LETTERS)
    return TextConfig("ldm", size, width, layers=1, heads=8, head_dim=64, mlp=width, positions=window)


def stand_in_tokenizer(window: int) -> PromptTokenizer:
    """Letter by letter, with BERT's special tokens."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return padded(bert_tokenizer({piece: i for i, piece in enumerate(pieces)}), window, "[PAD]")


def random_checkpoint(config: ModelConfig, device: str, seed: int = 0) -> Checkpoint:
    """Draw the weights as torch initialises layers, on the device itself, which takes moments on a GPU."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        states = {part: dict(make().state_dict()) for part, make in makers(config).items()}
    text = config.conditioner
    return Checkpoint(config, states, stand_in_tokenizer(text.positions) if isinstance(text, TextConfig) else None)


def loaded(checkpoint: Checkpoint, name: str, device: str, dtype: torch.dtype) -> LatentDiffusion:
    """Make the pipeline; the checkpoint can be loaded again in another precision."""
    return assemble(replace(checkpoint, states=dict(checkpoint.states)), name, device, dtype)


def card_of(checkpoint: Checkpoint, name: str) -> ModelCard:
    return ModelCard.model_validate(default_card(checkpoint, name, "random"))


def unallocated(config: ModelConfig, name: str, window: int | None) -> LatentDiffusion:
    """Make a model without storage, whose arithmetic can be counted and not done."""
    meta = torch.device("meta")
    with meta:
        unet, first_stage = UNet(config.unet), Autoencoder(config.first_stage)
    tokenizer = None if window is None else stand_in_tokenizer(window)
    denoiser = Denoiser(unet, meta, torch.float32)
    return LatentDiffusion(name, config, NoiseSchedule(config.schedule), denoiser, first_stage, None, tokenizer)


def tiny(config: ModelConfig) -> ModelConfig:
    """Make networks of the same layers, a few channels wide: to see that a bench runs."""
    text = config.conditioner
    context = None if config.unet.context_dim is None else TINY
    return replace(
        config,
        unet=replace(_narrow(config.unet), context_dim=context),
        first_stage=_narrow_first_stage(config.first_stage),
        conditioner=stand_in_text(TINY) if isinstance(text, TextConfig) else text,
    )


def _narrow(unet: UNetConfig) -> UNetConfig:
    channels = _few(unet.channels)
    return replace(unet, channels=channels, heads=(1,) * len(channels), mid_heads=1)


def _narrow_first_stage(config: AutoencoderConfig) -> AutoencoderConfig:
    stem = _few((config.stem,))[0]
    return replace(config, channels=_few(config.channels), stem=stem, codebook=min(config.codebook, 64))


def _few(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Keep about the ratios, in multiples of what norms divide."""
    return tuple(min(width, TINY * (width // channels[0])) for width in channels)
