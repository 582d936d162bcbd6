"""Tiny decoders of previews (TAESD): beside a model, or in the folder VAE-approx for all models of its latents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from contract.card import DEPTH, is_closed
from core.errors import CheckpointError
from models.checkpoints.build import State, build
from models.checkpoints.files.weights import companion, component_files, is_weights, read_tensors, understood
from models.networks.autoencoder import TinyDecoder
from models.networks.conditioning import TextConfig
from models.pipeline.config import ModelConfig

MARK = ".taesd"  # ends the stem of a file that belongs to the model of that name
FOLDERS = ("VAE-approx", "vae-approx", "vae_approx")
# What files in the folder are called, by the scale factor that tells latents of Stable Diffusion 1 and 2 from XL's.
NAMES: Mapping[float, str] = {0.18215: "taesd", 0.13025: "taesdxl"}
# Prefix of the decoder's keys, and the number of its first convolution: the original counts its bound as a layer.
LAYOUTS = (("decoder.layers.", 0), ("taesd_decoder.", 1), ("decoder.", 1), ("", 1))
FACTOR, CHANNELS = 8, 4


def tiny_decoder_of(card_folder: Path, config: ModelConfig) -> Path | None:
    """Find the file that decodes a model's previews: beside it before the folder's.

    Raises:
        CheckpointError: a folder as diffusers writes it holds no weights.
    """
    own = companion(card_folder, MARK)
    return own or next((path for path in _shared(card_folder, config) if is_weights(path)), None)


def _shared(card_folder: Path, config: ModelConfig) -> Iterator[Path]:
    first, text = config.first_stage, config.conditioner
    name = NAMES.get(round(config.scale_factor, 5))
    stable = isinstance(text, TextConfig) and text.kind == "clip"  # others have latents of their own
    if name is None or not stable or (first.kind, first.factor, first.embed_dim) != ("kl", FACTOR, CHANNELS):
        return
    called = re.compile(rf"{name}(?![a-z0-9])(?!.*encoder)")
    for above in list(card_folder.parents)[: DEPTH + 1]:
        for folder in (above / each for each in FOLDERS):
            for entry in sorted(folder.iterdir()) if folder.is_dir() and not is_closed(folder) else ():
                if called.match(entry.name.lower()):
                    yield from component_files(entry)[:1] if entry.is_dir() else (entry,)


def read_tiny_decoder(path: Path, channels: int, *, data: bool = True) -> State:
    """Read a decoder's weights under our names; without `data` shapes alone.

    Raises:
        CheckpointError: it is damaged, none, or of latents of another number of channels.
    """
    with understood(path):
        state = read_tensors(path, data=data)
        found = next((own for prefix, first in LAYOUTS if (own := _below(state, prefix, first))), {})
        if (conv := found.get("layers.0.weight")) is None or conv.ndim != 4:
            raise CheckpointError(f"{path}: no decoder of TAESD: it lacks {', '.join(p for p, _ in LAYOUTS if p)}*")
        if conv.shape[1] != channels:
            raise CheckpointError(f"{path}: reads latents of {conv.shape[1]} channels, the model's have {channels}")
        return found


def _below(state: Mapping[str, Tensor], prefix: str, first: int) -> State:
    numbered = re.compile(rf"{re.escape(prefix)}([0-9]+)\.(.+)")
    matches = {key: numbered.fullmatch(key) for key in state}
    return {f"layers.{int(m[1]) - first}.{m[2]}": state[key] for key, m in matches.items() if m is not None}


def load_tiny_decoder(path: Path, channels: int, device: str, dtype: torch.dtype) -> TinyDecoder:
    """Make the network. Raises as `read_tiny_decoder` and `build`."""
    state = read_tiny_decoder(path, channels)
    width = len(state["layers.0.weight"])
    return build(lambda: TinyDecoder(channels, width), state, str(path), device, dtype)
