"""Running out of a card's memory: calls are halved until they fit, and no job is lost; what NVML tells of the card."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from models.inputs import Inputs
from tests.engines import failures, finished, make_request, play
from tests.gpu.devices import ON_GPU, engine, models
from workers.engine.messages import Admission, Called, OutOfMemory
from workers.metrics.gpu import gpu_of

PICTURES, SIDE = 32, 512
ROOM = 6  # times what a call for one guided picture needs, or twice a decoding; a call for all needs twice that room


@pytest.fixture(params=[ON_GPU])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The GPU, whose memory for this process is whole again afterwards."""
    name: str = request.param
    yield name
    torch.cuda.set_per_process_memory_fraction(1.0, name)
    torch.cuda.empty_cache()


def big(name: str) -> Admission:
    return Admission(name, make_request(width=SIDE, height=SIDE, steps=2))


def peak(device: str, work: Callable[[], object]) -> int:
    """Count the bytes that `work` needs beside what is there, once its kernels are loaded."""
    work()
    torch.cuda.reset_peak_memory_stats(device)
    kept = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - kept


@torch.inference_mode()
def works(device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a plain call of the UNet with the two rows of a guided picture, and the decoding of one."""
    model = models(device, torch.float32)["paint"]
    side = SIDE // model.latent_factor
    z = torch.zeros(2, model.latent_channels, side, side, device=device)
    timesteps, context = torch.zeros(2, device=device), model.encode_prompts(["a", "b"]).context
    inputs = Inputs(context, model.blank_concat(side, side).expand(2, -1, -1, -1))
    plain = replace(model.denoiser, captured=None)

    @torch.inference_mode()
    def call() -> object:
        return plain(z, timesteps, inputs)

    @torch.inference_mode()
    def decode() -> object:
        return model.decode(z[:1])

    return call, decode


def test_what_is_measured_on_a_card_runs() -> None:
    for work in works("cpu"):
        assert isinstance(made := work(), torch.Tensor)
        assert made.isfinite().all()


def test_a_call_that_is_too_large_is_halved_and_all_jobs_finish(device: str) -> None:
    call, decode = works(device)
    call_bytes, decode_bytes = peak(device, call), peak(device, decode)
    room = max(ROOM * call_bytes, 2 * decode_bytes)
    pictures = max(PICTURES, math.ceil(2 * room / call_bytes))
    one = engine(device, torch.float32, max_rows=2 * pictures)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + room) / total, device)
    outcomes = play(one, [big(str(i)) for i in range(pictures)])
    assert any(isinstance(outcome, OutOfMemory) for outcome in outcomes)
    assert failures(outcomes) == {}
    assert len(finished(outcomes)) == pictures
    last = [outcome.padded_rows for outcome in outcomes if isinstance(outcome, Called)][-1]
    assert last < 2 * pictures


def test_nvml_tells_of_the_card_that_torch_uses(device: str) -> None:
    gpu = gpu_of(device, torch.bfloat16)
    assert gpu is not None
    values = gpu.read()
    assert 0 <= values["latentd_gpu_utilization_ratio"] <= 1
    total = torch.cuda.get_device_properties(device).total_memory
    assert values["latentd_gpu_memory_total_bytes"] == pytest.approx(total, rel=0.05)
    assert 0 < values["latentd_gpu_memory_used_bytes"] <= values["latentd_gpu_memory_total_bytes"]
    assert values["latentd_gpu_power_watts"] > 0
