"""InstructPix2Pix and depth models as single files, with what their authors' files hold beside the networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from contract.card import ModelCard
from core.pictures import lossless
from models.checkpoints.layouts.compvis.ema import ROOT
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.scan import scan
from tests.engines import admitted, finished, make_engine, make_request, picture_bytes, play
from tests.parity.run import CASES, SD1_FILE
from workers.library.loading import load_ready

SD2 = CASES / "single_file" / "sd2_v_single_file" / "model.safetensors"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
TOKENS = 49_408
PICTURE, DEPTH = picture_bytes(64, 64), lossless(Image.linear_gradient("L").resize((64, 64)))
# What the authors' configs say that is neither a shape nor usual; the size of InstructPix2Pix's is a leftover.
CONFIGS: dict[str, dict[str, Any]] = {
    "edit": {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "image_size": 16,
        "use_ema": True,
        "conditioning_key": "hybrid",
    },
    "depth": {"linear_start": 0.00085, "linear_end": 0.012, "image_size": 64, "use_ema": False},
}


def state_of(kind: str) -> dict[str, Tensor]:
    """A small model with CLIP's vocabulary, and averages or a depth network beside it."""
    file, channels = (SD1_FILE, 8) if kind == "edit" else (SD2, 5)
    state = load_file(file)
    words = next(key for key in state if key.endswith("token_embedding.weight"))
    drawn = torch.Generator().manual_seed(0)
    state[words] = 0.02 * torch.randn(TOKENS, state[words].shape[1], generator=drawn).half()
    first = state[FIRST]
    state[FIRST] = 0.1 * torch.randn(first.shape[0], channels, 3, 3, generator=drawn).to(first.dtype)
    if kind == "depth":
        return state | {f"depth_model.model.{name}": torch.zeros(2) for name in ("pretrained.x", "scratch.y")}
    beginning = "model.diffusion_model."
    unet = {key.removeprefix(beginning): value for key, value in state.items() if key.startswith(beginning)}
    averages = {f"{ROOT}{key.replace('.', '')}": 0.5 * value for key, value in unet.items()}
    return state | averages | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def write(kind: str, folder: Path, configured: bool) -> Path:
    folder.mkdir()
    if configured:
        params = CONFIGS[kind] | {"unet_config": {"params": {"num_heads": 8}}}
        (folder / "m.json").write_text(json.dumps({"model": {"params": params}}), "utf-8")
    if kind == "edit":
        torch.save({"state_dict": state_of(kind), "global_step": 22_000}, folder / "m.ckpt")
        return folder / "m.ckpt"
    save_file(state_of(kind), folder / "m.safetensors")
    return folder / "m.safetensors"


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize(("kind", "task"), [("edit", "img2img"), ("depth", "depth2img")])
def test_they_are_found_carded_and_draw(kind: str, task: str, configured: bool, tmp_path: Path) -> None:
    file = write(kind, tmp_path / "models", configured)
    [found] = scan(tmp_path / "models")
    assert found.error is None
    card = ModelCard.model_validate_json(found.card.read_bytes())
    assert (card.tasks, card.native_size, card.prediction_type) == ((task,), 256, "eps")
    model = load_ready(file.parent / "m", "cpu", torch.float32)
    request = make_request(kind=task, model=model.id, prompt="red heart", steps=2)
    files = {"image": PICTURE} | ({"depth": DEPTH} if kind == "depth" else {})
    [done] = finished(play(make_engine({model.id: model}), [admitted("a", request, files)]))
    assert done


def test_instruct_pix2pix_draws_by_its_averages_as_its_authors_do(tmp_path: Path) -> None:
    file = write("edit", tmp_path / "models", configured=False)
    weights = load_checkpoint(file).states["unet"]
    assert torch.equal(weights["conv_in.weight"], 0.5 * state_of("edit")[FIRST])
