"""The torch update: equal to the table's equations, and to itself whatever the neighbours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.samplers import SAMPLERS, Row, compile_plan
from models.samplers.update import apply, guide, stack_history, stack_rows
from models.schedule import NoiseSchedule, ScheduleConfig

ROWS: list[Row] = [
    row
    for name in SAMPLERS
    for row in compile_plan(name, NoiseSchedule(ScheduleConfig(prediction="v", clip=1.5)), 6).rows
]
DEPTH = 4


def draw(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    out, z_t, noise = torch.randn(3, n, 4, 5, 3, generator=generator, dtype=dtype)
    return out, z_t, torch.randn(n, DEPTH, 4, 5, 3, generator=generator, dtype=dtype), noise


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(ROWS), min_size=1, max_size=9))
def test_a_slots_bits_do_not_depend_on_its_neighbours(rows: list[Row]) -> None:
    out, z_t, history, noise = draw(len(rows))
    together = apply(stack_rows(rows), out, z_t, history, noise)
    for i, row in enumerate(rows):
        one = slice(i, i + 1)
        alone = apply(stack_rows([row]), out[one], z_t[one], history[one], noise[one])
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours[0], theirs[i])


def test_the_update_is_the_equation() -> None:
    out, z_t, history, noise = draw(len(ROWS), torch.float64)
    z_next, p, x0 = apply(stack_rows(ROWS, dtype=torch.float64), out, z_t, history, noise)
    for i, row in enumerate(ROWS):
        bound = float("inf") if row.clamp is None else row.clamp
        stored = [(row.out * out[i] + row.z * z_t[i]).clamp(-bound, bound), *history[i]]
        expected = row.keep * z_t[i] + row.raw * out[i] + row.noise * noise[i]
        expected = expected + torch.stack([c * h for c, h in zip(row.predictions, stored, strict=False)]).sum(0)
        torch.testing.assert_close(p[i], stored[0])
        torch.testing.assert_close(z_next[i], expected)
        torch.testing.assert_close(x0[i], row.preview_p * stored[0] + row.preview_z * z_t[i])


def test_timesteps_and_depth_are_what_the_rows_say() -> None:
    c = stack_rows(ROWS)
    assert c.timesteps.tolist() == pytest.approx([row.t for row in ROWS])
    assert c.depth == max(len(row.predictions) for row in ROWS) - 1


def test_histories_of_different_length_are_stacked_newest_first() -> None:
    newest, older = torch.ones(4, 2, 2), torch.full((4, 2, 2), 2.0)
    stacked = stack_history([[newest, older], [], [newest]], 2, newest)
    assert stacked is not None
    assert stacked[:, :, 0, 0, 0].tolist() == [[1, 2], [0, 0], [1, 0]]
    assert stack_history([[newest]], 0, newest) is None


def test_rows_that_need_noise_or_history_say_so() -> None:
    out, z_t, history, _ = draw(len(ROWS))
    with pytest.raises(ValueError, match="need history"):
        apply(stack_rows(ROWS), out, z_t)
    with pytest.raises(ValueError, match="need noise"):
        apply(stack_rows(ROWS), out, z_t, history)


def test_guidance_of_one_is_the_conditional_prediction() -> None:
    eps_u, eps_c, _, _ = draw(2, torch.float64)
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64)[:, None, None, None]
    guided = guide(eps_u, eps_c, scale)
    torch.testing.assert_close(guided[0], eps_c[0])
    torch.testing.assert_close(guided[1], 4 * eps_c[1] - 3 * eps_u[1])
