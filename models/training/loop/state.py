"""The state of a run on disk: weights, averages, optimisers, the next step. Tensors are safetensors; no pickle."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import ConfigurationError
from models.training.loop.players import Player
from models.training.loop.replacing import recover, replaced

FOLDER, INDEX = "state", "state.json"
# What of a configuration changes no loss, so that it may change between the pieces of a run.
NO_LOSS = (
    *("out", "save_every", "log_every", "sample_every", "sample_steps", "guidance_scale", "prompts"),
    *("card", "save_dtype", "trigger", "layout"),
)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True, slots=True)
class Origin:
    """What a state belongs to: its configuration, and by name a digest of each thing that the run reads."""

    config: str
    inputs: Mapping[str, str]


def save_state(folder: Path, step: int, players: Mapping[str, Player], origin: Origin) -> None:
    """Write the state before `step` whole or not at all; what was there is replaced."""
    with replaced(folder / FOLDER) as unfinished:
        for name, player in players.items():
            save_file(_tensors(player), unfinished / f"{name}.safetensors")
        (unfinished / INDEX).write_text(json.dumps({"step": step, **asdict(origin)}), "utf-8")


def check_configuration(folder: Path, config: str, unread: Container[str]) -> None:
    """Refuse to go on with the state of another configuration.

    unread: keys of settings that do nothing in this run; states of before they were refused may have any value there.

    Raises:
        ConfigurationError: naming what differs.
    """
    kept = _kept(folder)
    if kept is None:
        return
    before, now = (
        _flat({key: value for key, value in json.loads(text).items() if key not in NO_LOSS})
        for text in (json.loads((kept / INDEX).read_text("utf-8"))["config"], config)
    )
    keys = [key for key in {**before, **now} if key not in unread]
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if changed:
        told = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
        detail = f"{kept}: was made with another configuration ({told}); go on with that or choose another `out`"
        raise ConfigurationError(detail, field=changed[0], value=now.get(changed[0]), bound=before.get(changed[0]))


def load_state(folder: Path, players: Mapping[str, Player], origin: Origin) -> int:
    """Read the state if there is one. Returns the next step.

    Raises:
        ConfigurationError: the state is of other data than `origin`, or doesn't fit.
    """
    kept = _kept(folder)
    if kept is None:
        return 0
    index = json.loads((kept / INDEX).read_text("utf-8"))
    others = sorted(name for name, digest in origin.inputs.items() if index.get("inputs", {}).get(name) != digest)
    if others:
        told = " and another ".join(others)
        detail = f"{kept}: was made with another {told}; go on with that or choose another `out`"
        raise ConfigurationError(detail, field="out", value=str(folder))
    for name, player in players.items():
        _restore(player, load_file(kept / f"{name}.safetensors"), kept / f"{name}.safetensors")
    return int(index["step"])


def _kept(folder: Path) -> Path | None:
    """Return where a state is; None if there is none."""
    recover(folder / FOLDER)
    return folder / FOLDER if (folder / FOLDER / INDEX).is_file() else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested keys as `data.size`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _tensors(player: Player) -> dict[str, Tensor]:
    state = _prefixed("module", player.module.state_dict())
    if player.average is not None:
        state |= _prefixed("average", player.average.state_dict())
    for number, moments in player.optimizer.state_dict()["state"].items():
        state |= _prefixed(f"optimizer.{number}", {key: moments[key] for key in MOMENTS})
    return {key: value.contiguous() for key, value in state.items()}


def _restore(player: Player, state: dict[str, Tensor], file: Path) -> None:
    try:
        player.module.load_state_dict(_below("module", state))
        if player.average is not None:
            player.average.load_state_dict(_below("average", state))
    except RuntimeError as error:
        raise ConfigurationError(f"{file}: doesn't fit the networks ({' '.join(str(error).split())})") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _below("optimizer", state).items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    groups: list[dict[str, Any]] = player.optimizer.state_dict()["param_groups"]
    player.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    _lay_out(player.optimizer)


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give moments their parameters' layout, which the fused kernel needs: files hold them contiguous."""
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the host: a device that trains a network may lack the memory for as many again."""
    return {f"{prefix}.{key}": value.detach().to("cpu", copy=True) for key, value in state.items()}


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}


def state_bytes(players: Mapping[str, Player]) -> int:
    """Return how large a state is: weights, averages and two moments."""
    copies = 4
    return copies * sum(p.nbytes for player in players.values() for p in player.module.parameters())


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
