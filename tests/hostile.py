"""Checkpoints that are none: damaged, mixed up, of unknown kinds, and two that would run a command if unpickled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER


class _Command:
    """Unpickled by anyone but us, this makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def write_hostile(folder: Path, made: Path) -> Mapping[str, str]:
    """Bad checkpoints in `folder`; what each one's line must name. `made` appears if one is executed."""
    state = torch.load(CASES / "compvis" / "ldm_uncond_full" / "model.ckpt", weights_only=False)
    (folder / "evil.ckpt").write_bytes(pickle.dumps(_Command(made)))
    torch.save({"state_dict": state["state_dict"], "callbacks": _Command(made)}, folder / "evil-zip.ckpt")
    whole = SD1_FILE.read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    _write_misshapen(state["state_dict"], folder / "misshapen.safetensors")
    save_file({"blocks.0.attn.weight": torch.zeros(4, 4)}, folder / "unknown.safetensors")
    (folder / "text.ckpt").write_text("<html>404 Not Found</html>")
    (folder / "empty.safetensors").touch()
    _write_mixed_up(folder / "mixed-up")
    _write_odd_config(folder / "odd-config")
    return {
        "evil.ckpt": "malicious: it would run posix.mkdir",
        "evil-zip.ckpt": "malicious: it would run posix.mkdir",
        "truncated.safetensors": "truncated.safetensors",
        "misshapen.safetensors": "model.diffusion_model.time_embed.2.weight has shape [3, 5], expected [128, 128]",
        "unknown.safetensors": "not a whole latent diffusion model",
        "text.ckpt": "text.ckpt",
        "empty.safetensors": "empty.safetensors",
        "mixed-up": "conv_in.weight has shape [8, 9, 3, 3], expected [8, 4, 3, 3]",
        "odd-config": "odd-config",
    }


def _write_misshapen(state: Mapping[str, Tensor], path: Path) -> None:
    key = "model.diffusion_model.time_embed.2.weight"
    save_file({name: value.contiguous() for name, value in state.items()} | {key: torch.zeros(3, 5)}, path)


def _write_mixed_up(folder: Path) -> None:
    """The UNet of one pipeline with the first stage of another."""
    shutil.copytree(SD1_FOLDER, folder)
    vae = "diffusion_pytorch_model.safetensors"
    shutil.copy(CASES / "diffusers" / "stable_diffusion_inpaint" / "pipeline" / "unet" / vae, folder / "unet" / vae)


def _write_odd_config(folder: Path) -> None:
    shutil.copytree(SD1_FOLDER, folder)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": "many"}))
