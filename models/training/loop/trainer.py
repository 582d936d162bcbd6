"""The loop of every run: players in turn, gradients summed over micro-batches and processes, state, log, samples."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import ConfigurationError
from models.training.configs.base import RunConfig, write_config
from models.training.data.folder import check_apart
from models.training.loop.alone import held
from models.training.loop.logbook import Logbook
from models.training.loop.players import Player, Stage
from models.training.loop.processes import Processes
from models.training.loop.rates import learning_rate, set_rate
from models.training.loop.state import NO_LOSS, Origin, check_configuration, load_state, save_state, state_bytes

MB = 1 << 20
SPARE = 256 * MB  # disk that a run leaves for its log and samples


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is, for whoever shows it: in its steps, or in what it prepares first."""

    step: int
    steps: int
    values: Mapping[str, float]
    what: str = "steps"


Report = Callable[[Progress], None]
Stop = Callable[[], bool]


def origin_of(config: RunConfig, stage: Stage) -> Origin:
    """Return what must not change between the pieces of a run."""
    return Origin(_decisive(config), stage.inputs)


@contextmanager
def begun(config: RunConfig, processes: Processes) -> Iterator[None]:
    """Make the folder of a run and write its configuration there, before anything is encoded; it is this run's alone
    until the end.

    Raises:
        ConfigurationError: the processes don't divide the batch, `out` is among the data's pictures, another run is at
            work there, or a state that is there is another configuration's.
    """
    _check_shares(config, processes)
    check_apart(config.out, config.data.folder)
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(held(config.out))
        check_configuration(config.out, _decisive(config), config.unread())
        if processes.first:
            write_config(config, config.out / "config.yaml")
        yield


def _check_shares(config: RunConfig, processes: Processes) -> None:
    parts = config.accumulate * processes.count
    if config.batch % parts:
        detail = f"batch is {config.batch}; accumulate is {config.accumulate} and there are {processes.count} processes"
        detail += f", so that {parts} must divide it"
        raise ConfigurationError(detail, field="batch", value=config.batch, bound=parts)


def _decisive(config: RunConfig) -> str:
    """Return what of a configuration decides on losses, as JSON."""
    return config.model_dump_json(exclude={**dict.fromkeys(NO_LOSS, True), "data": {"workers"}})


def train(config: RunConfig, stage: Stage, processes: Processes, *, report: Report, stop: Stop) -> bool:
    """Train from the last state until the last step, or until `stop` says so after a step. Returns whether it is done.

    Raises:
        ConfigurationError: the state is another run's, the disk is too full, or the loss is no number.
    """
    step = load_state(config.out, stage.players, origin_of(config, stage))
    _check_disk(config, stage)
    log = Logbook(config.out, step) if processes.first else None
    try:
        return _Loop(config, stage, processes, log, report).run(step, stop)
    finally:
        if log is not None:
            log.close()


class _Loop:
    def __init__(
        self, config: RunConfig, stage: Stage, processes: Processes, log: Logbook | None, report: Report
    ) -> None:
        self.config, self.stage, self.processes, self.log, self.report = config, stage, processes, log, report
        self.since, self.computed = time.perf_counter(), 0

    def run(self, step: int, stop: Stop) -> bool:
        if step >= self.config.steps:
            return True
        batches = self.stage.batches(step)
        while step < self.config.steps:
            self.stage.before(step)
            values = self._step(step, batches)
            step += 1
            self.computed += self.config.batch
            if step % self.config.log_every == 0 or step == self.config.steps:
                self._tell(step, self._checked(step, values))
            self._show(step)
            stopped = self.processes.any(stop())
            if stopped or step % self.config.save_every == 0 or step == self.config.steps:
                self._checked(step, values)
                self._save(step)
            if stopped:
                break
        return step >= self.config.steps

    def _step(self, step: int, batches: Iterator[tuple[Sequence[int], object]]) -> dict[str, Tensor | float]:
        micro = [next(batches)[1] for _ in range(self.config.accumulate)]
        values: dict[str, Tensor | float] = {}
        for name, player in self.stage.players.items():
            if self.stage.plays(name, step):
                values |= self._play(name, player, micro, step)
        return values

    def _play(self, name: str, player: Player, micro: list[object], step: int) -> dict[str, Tensor | float]:
        """Take one step of a player's optimiser."""
        sums: dict[str, Tensor] = {}
        player.optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(micro):
            losses = self.stage.losses(name, part, batch, step)
            (losses["loss"] / self.config.batch).backward()  # type: ignore[no-untyped-call]
            for key, value in losses.items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value.detach()
        trained = [p for p in player.module.parameters() if p.requires_grad]
        self.processes.sum_gradients(trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, player.config.clip)
        rate = learning_rate(player.config, step, self.config.steps)
        set_rate(player.optimizer, rate)
        player.optimizer.step()
        player.follow(step)
        prefix = "" if name == next(iter(self.stage.players)) else f"{name} "
        told = {f"{prefix}{key}": value / self.config.batch for key, value in sums.items()}
        return {**told, f"{prefix}gradient": norm, f"{prefix}rate": rate}

    def _checked(self, step: int, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Return what a step gave, of all processes, each of which takes part in the sums. Raises: as `train`."""
        losses = [name for name, value in values.items() if isinstance(value, Tensor) and "gradient" not in name]
        total = self.processes.sum(torch.stack([torch.as_tensor(values[n]).float() for n in losses]))
        told = dict(zip(losses, total.tolist(), strict=True))
        told |= {name: float(value) for name, value in values.items() if name not in told}
        if not all(map(_finite, told.values())):
            raise ConfigurationError(f"step {step}: the loss is no number ({told}); a lower learning_rate may help")
        return told

    def _tell(self, step: int, told: dict[str, float]) -> None:
        now = time.perf_counter()
        told["samples_per_s"] = self.computed / max(now - self.since, 1e-9)
        self.since, self.computed = now, 0
        if self.log is not None:
            self.log.write(step - 1, told)
            self.report(Progress(step, self.config.steps, told))

    def _show(self, step: int) -> None:
        if self.log is not None and (step % self.config.sample_every == 0 or step == self.config.steps):
            self.log.show(step, self.stage.pictures())

    def _save(self, step: int) -> None:
        if self.log is not None:
            # In this order: a state of the last step says that the checkpoint is there.
            self.stage.save()
            save_state(self.config.out, step, self.stage.players, origin_of(self.config, self.stage))
            measured = self.stage.measure()
            if measured:
                self.log.write(step - 1, measured)
            self.log.plot()
        self.processes.wait()
        self.since = time.perf_counter()


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _check_disk(config: RunConfig, stage: Stage) -> None:
    """Refuse a run whose state has no room twice: the new one is written before the old one goes."""
    config.out.mkdir(parents=True, exist_ok=True)
    needed, free = 3 * state_bytes(stage.players) + SPARE, shutil.disk_usage(config.out).free
    if free < needed:
        detail = f"{config.out}: {free // MB} MB are free; state, samples and checkpoint need {needed // MB} MB"
        raise ConfigurationError(detail, field="out", value=str(config.out), bound=needed // MB)
