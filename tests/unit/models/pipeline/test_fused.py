"""Fused networks: made beside the work for each shape, used once they agree, given up with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from models.pipeline.captured import CapturedCalls
from models.pipeline.fused import KEPT, Disagreement, FusedNetwork, making

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, here g++"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),  # inductor's own
]


class Small(nn.Module):
    """What inductor fuses of a UNet: norm, activation and gate; `told` is what reaches its rows beside x."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate = nn.GroupNorm(2, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        h = torch.nn.functional.silu(self.norm(x)).movedim(1, -1)  # b w c
        value, gate = self.gate(h).chunk(2, dim=-1)
        out: Tensor = value * torch.nn.functional.gelu(gate)
        return out if told is None else out + told[:, None, None]


def unreachable(error: Exception) -> None:
    raise error


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    yield
    torch._dynamo.reset()


def made() -> int:
    return counters["stats"]["unique_graphs"]


@torch.inference_mode()
def test_a_shape_is_made_once_for_any_rows_and_exact_calls_never_use_it() -> None:
    network = Small()
    fused = FusedNetwork(network, unreachable)
    calls = CapturedCalls(network, unreachable, fused)
    began = made()
    for rows in (2, 4, 8):
        x = torch.randn(rows, 8, 16)
        assert torch.equal(calls(x, None), network(x))  # nothing waits for it
        fused.wait()
        again = torch.randn(rows, 8, 16)
        torch.testing.assert_close(calls(again, None), network(again), rtol=1e-4, atol=1e-5)
        assert torch.equal(calls(again, None, exact=True), network(again))
    assert (fused.there, made() - began) == (3, 1)
    assert {key[0] for key in calls.calls} == {True, False}


@torch.inference_mode()
def test_more_shapes_are_made_than_the_compiler_keeps_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced alone: it takes no time
    fused, began = FusedNetwork(Small(), unreachable), made()
    for width in range(16, 28):
        x = torch.randn(2, 8, width)
        fused.begin((width,), (x,))
        fused.wait()
    assert (fused.there, made() - began) == (12, 12)


@torch.inference_mode()
def test_a_process_of_many_networks_reaches_no_limit_of_the_compiler() -> None:
    limits: list[int] = []
    network = Small()

    def fusing(x: Tensor) -> Tensor:
        limits.extend((torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit))
        out: Tensor = network(x)
        return out

    fused = FusedNetwork(network, unreachable)
    fused._fused = fusing
    fused.begin(("x",), (torch.randn(2, 8, 16),))
    fused.wait()
    assert min(limits) > 100 * KEPT, "reached, it runs the plain network and tells no caller"


@torch.inference_mode()
def test_weights_are_the_networks_own_and_what_is_hooked_into_it_is_not() -> None:
    network = Small()
    fused = FusedNetwork(network, unreachable)
    network.gate.register_forward_hook(lambda *_: torch.zeros(()))
    x = torch.randn(2, 8, 16)
    fused.begin(("x",), (x,))
    fused.wait()
    with torch.no_grad():
        network.gate.weight.mul_(2)
    network.gate._forward_hooks.clear()
    torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_what_disagrees_is_given_up_and_told_once() -> None:
    told: list[Exception] = []
    network = Small()
    fused = FusedNetwork(network, told.append)
    fused._fused = lambda x: network(x) * 1.1
    for _ in range(3):
        fused.begin(("x",), (torch.randn(2, 8, 16),))
        fused.wait()
    assert fused.broken
    assert [type(error) for error in told] == [Disagreement]


@torch.inference_mode()
def test_a_broken_picture_says_nothing_of_a_shape() -> None:
    network = Small()
    fused = FusedNetwork(network, unreachable)
    fused._fused = network
    for value, there in ((torch.nan, 0), (1.0, 1)):
        fused.begin(("x",), (torch.randn(2, 8, 16) * value,))
        fused.wait()
        assert (fused.there, fused.broken) == (there, False)


@torch.inference_mode()
def test_what_cannot_be_compiled_is_given_up() -> None:
    told: list[Exception] = []

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"no such kernel for {x.shape}")

    fused = FusedNetwork(Odd(), told.append)
    fused.begin(("x",), (torch.randn(2, 8),))
    fused.wait()
    assert (fused.broken, len(told), fused.there) == (True, 1, 0)


@torch.inference_mode()
def test_what_a_failed_making_held_is_free_before_others_may_go_on() -> None:
    """Its error holds the tensors of the call that lacked memory: those who wait for memory wait for that, too."""
    held: list[bool] = []
    fused = FusedNetwork(Small(), lambda _: held.append(making()))
    fused._fused = _full
    fused.begin(("x",), (torch.randn(2, 8, 16),))
    fused.wait()
    assert (held, making(), fused.broken, fused.there) == ([True], False, False, 0)


def _full(*_: Tensor | None) -> Tensor:
    raise torch.OutOfMemoryError("full")
