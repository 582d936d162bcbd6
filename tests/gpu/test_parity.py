"""Every path of a device gives the pictures of the CPU in float32: bit for bit nearly so, in half precision by PSNR."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from latentd.bench.engine_speed import half_precision
from models.samplers import SAMPLERS
from tests.engines import finished, inpaint, make_request, mask_bytes, picture_bytes, play, upscale
from tests.gpu.devices import DEVICES, ON_GPU, engine, engine_over, models
from tests.modules import ROOT
from workers.engine.messages import Admission
from workers.library.loading import load_ready

LEVELS = 2  # of 255, by which float32 may differ between devices
HALF_DB = 40.0
EMOJI = ROOT / "models" / "weights" / "emoji"
ROWS = (1, 2, 4, 8, 16)  # of calls, as captured graphs have them


def jobs(determinism: str = "fast") -> list[Admission]:
    """All samplers, tasks of both models, with and without guidance."""
    made = []
    for i, sampler in enumerate(SAMPLERS):
        changes = {"sampler": sampler, "steps": 3 + i, "seed": i, "determinism": determinism}
        changes |= {"guidance_scale": (1.0, 4.0)[i % 2], "prompt": f"star {i}"}
        made.append(Admission(f"draw-{i}", make_request(**changes, guidance_rescale=(0.0, 0.7)[i % 2])))
        made.append(inpaint(f"paint-{i}", picture_bytes(64, 64, seed=i), mask_bytes(64, 64), **changes))
        enlarged = {name: value for name, value in changes.items() if name != "guidance_scale"}
        made.append(upscale(f"up-{i}", picture_bytes(24, 16, seed=i), **enlarged))
    return made


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Between two pictures, in dB."""
    error = float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.fixture
def whole_float32() -> Iterator[None]:
    """Convolutions multiply float32 as it is: in TF32, torch's default, the upscaler's latents take other codes."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def reference() -> Mapping[tuple[str, int], Image.Image]:
    return finished(play(engine("cpu", torch.float32), jobs()))


@pytest.mark.usefixtures("whole_float32")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_rows", ROWS)
def test_float32_is_the_same_in_calls_of_every_size(
    device: str, max_rows: int, reference: Mapping[tuple[str, int], Image.Image]
) -> None:
    pictures = finished(play(engine(device, torch.float32, max_rows), jobs()))
    assert pictures.keys() == reference.keys()
    for key, picture in pictures.items():
        difference = np.abs(np.asarray(picture, np.int16) - np.asarray(reference[key], np.int16)).max()
        assert difference <= LEVELS, key


@pytest.mark.parametrize("device", [ON_GPU])
def test_calls_are_captured(device: str) -> None:
    """While something is fused nothing is recorded, so that comes first."""
    for model in models(device, torch.float32).values():
        model.denoiser.settle()
    play(engine(device, torch.float32), jobs())
    for model in models(device, torch.float32).values():
        captured = model.denoiser.captured
        assert captured is not None
        assert (captured.broken, captured.fused is None or captured.fused.broken) == (False, False)
        assert captured.calls


@pytest.mark.usefixtures("whole_float32")
@pytest.mark.parametrize("device", [ON_GPU])
def test_fused_calls_come_and_give_the_same_pictures(
    device: str, reference: Mapping[tuple[str, int], Image.Image]
) -> None:
    model = models(device, torch.float32)["paint"]
    assert model.denoiser.captured is not None
    fused, drawn = model.denoiser.captured.fused, [job for job in jobs() if job.request.model == "paint"]
    assert fused is not None
    pictures = finished(play(engine(device, torch.float32, 2), drawn))
    for _ in range(3):  # 1 and 2 rows are made one after the other
        model.denoiser.settle()
        pictures = finished(play(engine(device, torch.float32, 2), drawn))
    assert (fused.there >= 2, fused.broken) == (True, False)
    for key, picture in pictures.items():
        difference = np.abs(np.asarray(picture, np.int16) - np.asarray(reference[key], np.int16)).max()
        assert difference <= LEVELS, key


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_close(device: str, reference: Mapping[tuple[str, int], Image.Image]) -> None:
    """But for the upscaler, whose latents jump to the nearest entry of a random codebook."""
    drawn = [job for job in jobs() if job.request.model == "paint"]
    pictures = finished(play(engine(device, half_precision(device)), drawn))
    assert len(pictures) == len(drawn)
    for key, picture in pictures.items():
        assert psnr(picture, reference[key]) >= HALF_DB, key


@pytest.mark.parametrize("device", [ON_GPU])
def test_the_default_model_is_close_in_half_precision(device: str) -> None:
    if not (EMOJI / "unet" / "diffusion_pytorch_model.safetensors").is_file():
        pytest.skip(f"no weights in {EMOJI}")
    job = Admission("a", make_request(model="emoji", width=256, height=256, steps=12))
    pictures = []
    for where, dtype in (("cpu", torch.float32), (device, half_precision(device))):
        one = engine_over({"emoji": load_ready(EMOJI, where, dtype)}, where, max_rows=2)
        pictures.append(finished(play(one, [job]))["a", 0])
    assert psnr(*pictures) >= HALF_DB
