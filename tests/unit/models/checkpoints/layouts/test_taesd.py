"""Tiny decoders of previews: each layout of their files as diffusers computes it, where they are found, refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save as safetensors
from safetensors.torch import save_file
from structlog.testing import capture_logs
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.layouts.taesd import load_tiny_decoder, tiny_decoder_of
from models.checkpoints.load import load
from models.checkpoints.scan import scan
from models.networks.autoencoder import TinyDecoder
from models.pipeline.config import ModelConfig
from tests.controls import CASE
from tests.engines import make_engine, make_request, play
from tests.parity.run import SD1_FILE
from tests.powers import as_an_ordinary_user
from workers.engine.messages import Admission, Stepped
from workers.library.loading import load_ready

WIDTH = 8
INTEGERS = {"1.weight": torch.zeros(WIDTH, 4, 3, 3, dtype=torch.int8)}


def tiny(seed: int = 0, channels: int = 4) -> Any:
    torch.manual_seed(seed)
    widths = (WIDTH,) * 4
    cls: Any = diffusers.AutoencoderTiny
    return cls(latent_channels=channels, encoder_block_out_channels=widths, decoder_block_out_channels=widths).eval()


def original(theirs: Any) -> dict[str, Tensor]:
    """The decoder's keys as its authors write them, the bound on the latent being layer 0."""
    state = theirs.decoder.layers.state_dict()
    return {f"{int(key.partition('.')[0]) + 1}.{key.partition('.')[2]}": value for key, value in state.items()}


def write(path: Path, state: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["diffusers", "original", "whole", "prefixed"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_layout_decodes_as_diffusers_does(layout: str, suffix: str, tmp_path: Path) -> None:
    theirs = tiny()
    states = {
        "diffusers": theirs.state_dict(),
        "original": original(theirs),
        "whole": {f"taesd_decoder.{key}": value for key, value in original(theirs).items()}
        | {f"taesd_encoder.{key}": value for key, value in theirs.encoder.layers.state_dict().items()}
        | {"vae_scale": torch.ones(())},
        "prefixed": {f"decoder.{key}": value for key, value in original(theirs).items()},
    }
    ours = load_tiny_decoder(write(tmp_path / f"taesd{suffix}", states[layout]), 4, "cpu", torch.float32)
    z = 3.0 * torch.randn(2, 4, 6, 10)
    torch.testing.assert_close(ours(z), theirs.decode(z).sample, atol=1e-5, rtol=1e-5)


def test_the_published_size_is_what_is_made() -> None:
    cls: Any = diffusers.AutoencoderTiny
    with torch.device("meta"):
        theirs = cls()
    shapes = {key.removeprefix("decoder."): value.shape for key, value in theirs.state_dict().items()}
    with torch.device("meta"):
        ours = TinyDecoder(4, 64).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: s for k, s in shapes.items() if k[:6] == "layers"}


def stable_diffusion() -> ModelConfig:
    """What it is as far as its latents go: 4 channels, f = 8."""
    config = load(SD1_FILE).config
    return replace(config, first_stage=replace(config.first_stage, channels=(8,) * 4, embed_dim=4))


def test_the_file_beside_a_model_goes_before_the_folders_own(tmp_path: Path) -> None:
    config = stable_diffusion()
    sdxl = replace(config, scale_factor=0.13025)
    folder = tmp_path / "sd15" / "dream"
    assert tiny_decoder_of(folder, config) is None
    state = original(tiny())
    for name in ("taesd_encoder.pth", "taesd3_decoder.pth", "taesdxl_decoder.pth", "taesd_decoder.pth"):
        write(tmp_path / "VAE-approx" / name, state)
    found, xl = tiny_decoder_of(folder, config), tiny_decoder_of(folder, sdxl)
    assert (found and found.name, xl and xl.name) == ("taesd_decoder.pth", "taesdxl_decoder.pth")
    assert tiny_decoder_of(folder, replace(config, scale_factor=1.0)) is None
    own = write(tmp_path / "sd15" / "dream.taesd.safetensors", state)
    assert tiny_decoder_of(folder, config) == own
    own.unlink()
    own = write(tmp_path / "sd15" / "dream.TAESD.bin", state)
    assert tiny_decoder_of(folder, config) == own


def test_a_folder_of_diffusers_is_found(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "VAE-approx" / "taesd")
    found = tiny_decoder_of(tmp_path / "dream", stable_diffusion())
    assert found == tmp_path / "VAE-approx" / "taesd" / "diffusion_pytorch_model.safetensors"


def test_neither_is_taken_for_a_model_and_a_lone_one_is_named(tmp_path: Path) -> None:
    write(tmp_path / "VAE-approx" / "taesd_decoder.pth", original(tiny()))
    write(tmp_path / "gone.taesd.pth", original(tiny()))
    [lone] = scan(tmp_path)
    assert lone.error == f"{tmp_path / 'gone.taesd.pth'}: a decoder of previews that no model beside it takes"


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        ({"conv_in.weight": torch.zeros(1)}, "no decoder of TAESD"),
        (original(tiny(channels=16)), "reads latents of 16 channels, the model's have 4"),
        (dict(list(original(tiny()).items())[:-2]), "lacks layers.18.bias and 1 more"),
        (original(tiny()) | INTEGERS, "holds int8; weights quantised to integers aren't read"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Tensor], detail: str, tmp_path: Path) -> None:
    file = write(tmp_path / "taesd.safetensors", state)
    with pytest.raises(CheckpointError, match=detail):
        load_tiny_decoder(file, 4, "cpu", torch.float32)


def previews(folder: Path) -> list[bytes]:
    model = load_ready(folder, "cpu", torch.float32)
    request = make_request(model=model.id, preview_every=1, steps=3)
    outcomes = play(make_engine({model.id: model}), [Admission("a", request)])
    return [each.previews[0] for each in outcomes if isinstance(each, Stepped) and each.previews]


def test_previews_are_made_by_it_and_a_broken_one_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "dream"
    shutil.copytree(CASE / "two_controlnets" / "pipeline", folder)
    whole = previews(folder)
    file = write(tmp_path / "dream.taesd.safetensors", original(tiny()))
    small = previews(folder)
    assert len(whole) == len(small) == 2
    assert whole != small
    for damaged in (b"broken", b"", file.read_bytes()[:-100], safetensors({**original(tiny()), **INTEGERS})):
        file.write_bytes(damaged)
        with capture_logs() as logs:
            assert previews(folder) == whole
        assert [line["event"] for line in logs] == ["previews are made by the first stage"]


def test_a_closed_file_is_told_as_a_damaged_one_is(tmp_path: Path) -> None:
    write(tmp_path / "dream.taesd.safetensors", original(tiny())).chmod(0)
    shutil.copytree(CASE / "two_controlnets" / "pipeline", tmp_path / "dream")
    with as_an_ordinary_user(), capture_logs() as logs:
        model = load_ready(tmp_path / "dream", "cpu", torch.float32)
    assert model.tiny_decoder is None
    assert [line["event"] for line in logs] == ["previews are made by the first stage"]


def test_a_closed_folder_of_decoders_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    write(tmp_path / "VAE-approx" / "taesd_decoder.pth", original(tiny()))
    (tmp_path / "VAE-approx").chmod(0)
    with as_an_ordinary_user():
        assert tiny_decoder_of(tmp_path / "sd15" / "dream", stable_diffusion()) is None
        [told] = scan(tmp_path)
    assert (
        told.error
        == f"{tmp_path / 'VAE-approx'} may not be read by the user of this process; what is in it is left out"
    )
