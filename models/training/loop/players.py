"""What is optimised in a run: one network, or two against each other, each with an optimiser and averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.training.configs.base import OptimizerConfig
from models.training.loop.rates import make_optimizer

Losses = dict[str, Tensor]  # sums over the samples of a micro-batch; "loss" is what gradients are taken of
WARM_AVERAGE = 10  # the average forgets its start: its decay is at most (1 + step) / (10 + step)


@dataclass(slots=True)
class Player:
    """A module with its optimiser and the moving average of its weights, if it has one."""

    module: nn.Module
    config: OptimizerConfig
    optimizer: torch.optim.AdamW
    average: nn.Module | None = None
    decay: float = 0.0

    @classmethod
    def of(cls, module: nn.Module, config: OptimizerConfig, decay: float | None = None) -> Player:
        """Make a player; `decay` None keeps no average."""
        average = None if decay is None else deepcopy(module).requires_grad_(False).eval()
        return cls(module, config, make_optimizer(module.parameters(), config), average, decay or 0.0)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights after a step; buffers are taken over."""
        if self.average is None:
            return
        decay = min(self.decay, (1 + step) / (WARM_AVERAGE + step))
        ours: list[Tensor] = list(self.average.parameters())
        theirs: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for kept, now in zip(self.average.buffers(), self.module.buffers(), strict=True):
            kept.copy_(now)

    @torch.no_grad()
    def settle(self) -> None:
        """Go on from the averaged weights: what is measured next has to fit what will be saved."""
        if self.average is not None:
            self.module.load_state_dict(self.average.state_dict())


class Stage(Protocol):
    """What the loop trains."""

    @property
    def players(self) -> Mapping[str, Player]: ...

    @property
    def inputs(self) -> Mapping[str, str]:
        """Digests of what the run reads beside its configuration, by name."""
        ...

    def batches(self, step: int) -> Iterator[tuple[Sequence[int], object]]:
        """Yield micro-batches of steps from `step` on: sample numbers and what they are."""
        ...

    def before(self, step: int) -> None:
        """Do what has to happen before a step, as a function of what the state holds."""
        ...

    def plays(self, player: str, step: int) -> bool:
        """Tell whether a player is optimised in a step."""
        ...

    def losses(self, player: str, part: int, batch: object, step: int) -> Losses:
        """Return the losses of a micro-batch, summed over its samples; gradients are taken of `loss`."""
        ...

    def pictures(self) -> Tensor:
        """Return a grid's pictures b 3 H W in [−1, 1], made by the averaged weights."""
        ...

    def measure(self) -> dict[str, float]:
        """Measure the averaged weights on what training doesn't see; empty where nothing is."""
        ...

    def save(self) -> None:
        """Write the checkpoint of the averaged weights."""
        ...
