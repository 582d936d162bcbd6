"""Running out of a card's memory: calls are halved until they fit, and no job is lost; what NVML tells of the card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engines import failures, finished, make_request, play
from tests.gpu.devices import ON_GPU, engine
from workers.engine.messages import Admission, Called, OutOfMemory
from workers.metrics.gpu import gpu_of

PICTURES, SIDE = 32, 512
ROOM = 6  # times the memory that one guided picture needs; a call of all 32 needs about 32 times


@pytest.fixture(params=[ON_GPU])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The GPU, whose memory for this process is whole again afterwards."""
    name: str = request.param
    yield name
    torch.cuda.set_per_process_memory_fraction(1.0, name)
    torch.cuda.empty_cache()


def big(name: str) -> Admission:
    return Admission(name, make_request(width=SIDE, height=SIDE, steps=2))


def test_a_call_that_is_too_large_is_halved_and_all_jobs_finish(device: str) -> None:
    one = engine(device, torch.float32, max_rows=2 * PICTURES)
    play(one, [big("first")])  # loads kernels, and tells what one picture needs
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    kept = torch.cuda.memory_allocated(device)
    play(one, [big("alone")])
    need = torch.cuda.max_memory_allocated(device) - kept
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + ROOM * need) / total, device)
    outcomes = play(one, [big(str(i)) for i in range(PICTURES)])
    assert any(isinstance(outcome, OutOfMemory) for outcome in outcomes)
    assert failures(outcomes) == {}
    assert len(finished(outcomes)) == PICTURES
    last = [outcome.padded_rows for outcome in outcomes if isinstance(outcome, Called)][-1]
    assert last < 2 * PICTURES


def test_nvml_tells_of_the_card_that_torch_uses(device: str) -> None:
    gpu = gpu_of(device, torch.bfloat16)
    assert gpu is not None
    values = gpu.read()
    assert 0 <= values["latentd_gpu_utilization_ratio"] <= 1
    total = torch.cuda.get_device_properties(device).total_memory
    assert values["latentd_gpu_memory_total_bytes"] == pytest.approx(total, rel=0.05)
    assert 0 < values["latentd_gpu_memory_used_bytes"] <= values["latentd_gpu_memory_total_bytes"]
    assert values["latentd_gpu_power_watts"] > 0
