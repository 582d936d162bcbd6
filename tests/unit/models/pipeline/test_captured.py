"""Captured calls: the network's own results over buffers that stay, few of them, and plain calls where that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.inputs import Inputs
from models.pipeline.captured import CapturedCall, CapturedCalls
from models.pipeline.fused import ALONE
from tests.engines import tiny_models


def _unreachable(error: Exception) -> None:
    raise error


def _call(rows: int, side: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Inputs]:
    """z_t, timesteps and inputs of the tiny inpainting model."""
    generator = torch.Generator().manual_seed(seed)
    z_t, context, concat = (
        torch.randn(rows, *shape, generator=generator) for shape in ((4, side, side), (5, 16), (5, side, side))
    )
    return z_t, torch.full((rows,), 10.0 * seed), Inputs(context, concat)


@torch.inference_mode()
def test_captured_calls_give_what_the_network_gives() -> None:
    plain = tiny_models()["paint"].denoiser
    calls = CapturedCalls(plain.unet, _unreachable)
    captured = replace(plain, captured=calls)
    for rows, side, seed in ((2, 8, 0), (4, 8, 1), (2, 8, 2), (2, 16, 3), (2, 8, 4)):
        assert torch.equal(captured(*_call(rows, side, seed)), plain(*_call(rows, side, seed)))
    assert len(calls.calls) == 3


@torch.inference_mode()
def test_a_result_outlives_the_next_call() -> None:
    plain = tiny_models()["paint"].denoiser
    captured = replace(plain, captured=CapturedCalls(plain.unet, _unreachable))
    first = captured(*_call(2, seed=0))
    captured(*_call(2, seed=1))
    assert torch.equal(first, plain(*_call(2, seed=0)))


def test_buffers_stay_where_they_are() -> None:
    seen: list[int] = []

    def network(x: Tensor, t: Tensor | None) -> Tensor:
        seen.append(x.data_ptr())
        return x + 1 if t is None else x + t

    calls = CapturedCalls(network, _unreachable)
    for value in (1.0, 2.0):
        assert torch.equal(calls(torch.full((2,), value), None), torch.full((2,), value + 1))
    assert seen[0] == seen[1]
    assert torch.equal(calls(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))  # with t: another call
    assert len(calls.calls) == 2


def test_the_least_recently_used_leaves() -> None:
    calls = CapturedCalls(lambda x: x, _unreachable, kept=2)
    for size in (1, 2, 1, 3):
        calls(torch.zeros(size))
    assert [call._buffers[0].shape[0] for call in calls.calls.values() if call._buffers[0] is not None] == [1, 3]


def test_what_cannot_be_recorded_is_called_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Exception] = []
    error = RuntimeError("operation not permitted when stream is capturing")
    calls = CapturedCalls(lambda x: x + 1, told.append)
    monkeypatch.setattr(CapturedCall, "__init__", _refusing(error))
    for _ in range(2):
        assert torch.equal(calls(torch.zeros(1)), torch.ones(1))
    assert told == [error]


def test_a_shape_for_whose_recording_memory_lacks_is_called_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded leaves, as it may be what lacks; a plain call may lack memory, too."""
    sizes: list[int] = []

    def network(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 8:
            raise torch.OutOfMemoryError("full")
        return x + 1

    calls = CapturedCalls(network, _unreachable)
    calls(torch.zeros(1))
    with monkeypatch.context() as patch:
        patch.setattr(CapturedCall, "__init__", _refusing(torch.OutOfMemoryError("full")))
        assert torch.equal(calls(torch.zeros(2)), torch.ones(2))
        with pytest.raises(torch.OutOfMemoryError):  # the engine splits the call
            calls(torch.zeros(9))
    assert not calls.calls
    for size in (1, 2):
        assert torch.equal(calls(torch.zeros(size)), torch.ones(size))
    assert [key for key, *_ in calls.calls] == [False]
    assert len(calls.calls) == 1


def test_nothing_is_recorded_while_something_is_fused() -> None:
    calls = CapturedCalls(lambda x: x + 1, _unreachable)
    with ALONE:
        assert torch.equal(calls(torch.zeros(1)), torch.ones(1))
        assert not calls.calls
    assert torch.equal(calls(torch.zeros(1)), torch.ones(1))
    assert len(calls.calls) == 1


def _refusing(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse
