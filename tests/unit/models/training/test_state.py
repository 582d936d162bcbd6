"""A state on disk: what is read again is laid out as it was, and a kill at any time leaves a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models.training.configs.base import OptimizerConfig
from models.training.loop.players import Player
from models.training.loop.replacing import replaced
from models.training.loop.state import Origin, load_state, save_state

ORIGIN = Origin("{}", {})


def player() -> Player:
    """A convolution whose kernels have channels last, after one step."""
    torch.manual_seed(0)
    module = nn.Conv2d(4, 8, 3)
    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    made = Player.of(module, OptimizerConfig(learning_rate=1e-3), decay=0.9)
    module(torch.ones(1, 4, 8, 8)).sum().backward()
    made.optimizer.step()
    return made


def test_moments_have_their_parameters_layout_which_fused_kernels_need(tmp_path: Path) -> None:
    saved, read = player(), player()
    save_state(tmp_path, 1, {"a": saved}, ORIGIN)
    assert load_state(tmp_path, {"a": read}, ORIGIN) == 1
    assert saved.optimizer.state.keys() != read.optimizer.state.keys()
    for before, after in zip(saved.module.parameters(), read.module.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            moment = read.optimizer.state[after][name]
            assert torch.equal(moment, saved.optimizer.state[before][name])
            assert moment.stride() == after.stride()


def test_a_state_that_a_kill_between_the_renames_left_is_resumed_from_and_outlives_another_kill(tmp_path: Path) -> None:
    save_state(tmp_path, 1, {"a": player()}, ORIGIN)
    (tmp_path / "state").rename(tmp_path / ".state.old")
    with pytest.raises(KeyboardInterrupt), replaced(tmp_path / "state"):
        raise KeyboardInterrupt
    assert load_state(tmp_path, {"a": player()}, ORIGIN) == 1
    (tmp_path / "state").rename(tmp_path / ".state.old")
    assert load_state(tmp_path, {"a": player()}, ORIGIN) == 1
    save_state(tmp_path, 2, {"a": player()}, ORIGIN)
    assert load_state(tmp_path, {"a": player()}, ORIGIN) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"state"}
