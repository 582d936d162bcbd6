"""Noise depends on (seed, purpose, step) alone."""

from __future__ import annotations

import torch

from models.samplers.noise import STEP, X_T, noise

SHAPE = (4, 32, 32)


def test_equal_arguments_give_equal_numbers_whatever_came_before() -> None:
    first = noise(7, X_T, 0, SHAPE)
    torch.manual_seed(1)
    noise(8, STEP, 3, SHAPE)
    assert torch.equal(first, noise(7, X_T, 0, SHAPE))


def test_seed_purpose_and_step_each_give_other_numbers() -> None:
    drawn = [noise(*key, SHAPE) for key in ((7, X_T, 0), (8, X_T, 0), (7, STEP, 0), (7, STEP, 1), (2**32 - 1, X_T, 0))]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.08


def test_it_is_standard_normal() -> None:
    drawn = noise(0, X_T, 0, (200_000,))
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01


def test_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    noise(1, X_T, 0, SHAPE)
    assert torch.equal(torch.rand(1), expected)
