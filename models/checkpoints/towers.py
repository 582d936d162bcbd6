"""Text towers, each read by itself, as the one conditioner that holds them."""

from __future__ import annotations

from collections.abc import Sequence

from models.checkpoints.build import State
from models.networks.conditioning import TextConfig, TowerConfig


def together(towers: Sequence[tuple[TowerConfig, State]]) -> tuple[TextConfig, State]:
    """Make one conditioner of the towers' configs and weights."""
    states = [{f"towers.{i}.{key}": value for key, value in state.items()} for i, (_, state) in enumerate(towers)]
    return TextConfig(tuple(config for config, _ in towers)), {key: v for state in states for key, v in state.items()}


def apart(text: TextConfig, state: State) -> list[tuple[TowerConfig, State]]:
    """Undo `together`."""
    prefixes = [f"towers.{i}." for i in range(len(text.towers))]
    states = [{k.removeprefix(p): value for k, value in state.items() if k.startswith(p)} for p in prefixes]
    return list(zip(text.towers, states, strict=True))
