"""Helper processes: what ends one is told of, and who ends the whole group ends the run alone."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from core.errors import ConfigurationError
from models.training.data.loader import helpers_watched, made_ahead


def test_a_helper_that_the_system_ends_is_told_of() -> None:
    """As where memory is short; torch raises it from within any line."""
    with pytest.raises(ConfigurationError, match=r"ended from outside \(SIGKILL\).*data\.workers"), helpers_watched():
        list(made_ahead([[0], [1], [2]], killed_at_one, workers=1))


def test_who_ends_a_process_group_ends_the_run_not_its_helpers() -> None:
    """SIGTERM from another than its parent: the run stops after its step, and saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)  # a helper has a pool of as many, any of which may be given the signal
    try:
        with helpers_watched():
            assert list(made_ahead([[0], [1], [2]], terminated_at_one, workers=1)) == [[0], [1], [2]]
    finally:
        torch.set_num_threads(threads)


def terminated_at_one(numbers: list[int]) -> list[int]:
    if numbers == [1]:
        os.kill(os.getpid(), signal.SIGTERM)
    return numbers


def killed_at_one(numbers: list[int]) -> list[int]:
    if numbers == [1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers


def test_a_fault_in_a_helper_stays_one() -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"), helpers_watched():
        list(made_ahead([[0]], faulty, workers=1))


def faulty(numbers: list[int]) -> list[int]:
    raise RuntimeError(f"a fault of ours at {numbers}")
