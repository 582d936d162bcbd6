"""Both halves of `latentd bench serve`: policies on one engine in this process, and servers over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from core.settings import Settings
from latentd.bench.machine import this_machine
from latentd.bench.peers.options import Options
from latentd.bench.report import Plot, Report, Row
from latentd.bench.serve import client, policies, servers
from latentd.bench.serve.environment import python_of
from latentd.bench.serve.load import Question, Side, default_mix, measure, runs_of
from workers.library.catalogue import find_cards
from workers.library.loading import choose_device, choose_dtype, load_engine

PLOT = Plot(x="load", y="mean, s", series="side", panel="where")
NOTE = (
    "Loads are shares of the smallest capacity among sides that batch; every side got the same jobs at the same times. "
    "Alike: one task, one number of steps a batch, as a pipeline's call; mixed: whatever waits, as our engine can."
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is served, on what, and with what beside it; `peers` is where the environment of other servers is."""

    settings: Settings
    model: str
    device: str
    size: int | None
    count: int
    rounds: int
    seed: int
    peers: Path


def question(setup: Setup) -> Question:
    card = find_cards(setup.settings.models_dir)[setup.model][0]
    return Question(default_mix(card, setup.size or card.native_size), card, setup.count, setup.seed, setup.rounds)


def total(setup: Setup, engine: bool, http: bool) -> int:
    """Count how often `bench` calls `on_run`."""
    return sum(runs_of(sides, question(setup)) for sides, wanted in ((4, engine), (3, http)) if wanted)


def bench(setup: Setup, *, engine: bool, http: bool, on_run: Callable[[], None]) -> Report:
    """Measure policies on the engine, servers over HTTP, or both.

    Raises:
        LatentdError: diffusers or the peers' packages aren't there, a server doesn't start, a job fails.
    """
    device = choose_device(setup.device)
    rows: list[Row] = []
    if http:  # first, so that what is missing is found out before minutes have passed
        rows += _labelled("over HTTP", over_http(setup, device, on_run))
    if engine:
        rows += _labelled("engine", on_engine(setup, device, on_run))
    return Report("serve", this_machine(device), tuple(rows), PLOT, (_work(setup), NOTE))


def on_engine(setup: Setup, device: str, on_run: Callable[[], None]) -> list[Row]:
    loaded = load_engine(setup.settings, [setup.model], device)
    return measure(policies.sides(loaded, setup.settings.max_rows), question(setup), on_run)


def over_http(setup: Setup, device: str, on_run: Callable[[], None]) -> list[Row]:
    """All servers are up at the same time; one without requests computes nothing."""
    python = python_of(setup.peers)
    with TemporaryDirectory(prefix="latentd-bench-") as name, ExitStack() as stack:
        made = _servers(setup, device, python, Path(name))
        up = [(stack.enter_context(server), prepare, batches) for server, prepare, batches in made]
        return measure([_side(*one) for one in up], question(setup), on_run)


def _servers(
    setup: Setup, device: str, python: Path, folder: Path
) -> Sequence[tuple[servers.Server, client.Prepare, bool]]:
    settings, dtype = setup.settings, dtype_of(setup, device)
    threads, most = settings.threads or os.cpu_count() or 1, max(1, settings.max_rows // 2)
    weights = find_cards(settings.models_dir)[setup.model][1]

    def options(batch: int, window: float) -> Options:
        return Options(weights, servers.free_port(), device.partition(":")[0], dtype, threads, batch, window)

    lit, plain = options(most, policies.WINDOW_S), options(1, 0.0)
    us = servers.ours(settings.models_dir, folder, device, dtype, threads, settings.max_rows)
    return (
        (us, client.for_latentd, True),
        (servers.peer("LitServe + diffusers", "litserve_app", python, lit, folder), client.for_peer, True),
        (servers.peer("FastAPI + diffusers", "fastapi_app", python, plain, folder), client.for_peer, False),
    )


def _side(server: servers.Server, prepare: client.Prepare, batches: bool) -> Side:
    return Side(server.name, lambda jobs: client.play(server.port, prepare, jobs), batches)


def _labelled(where: str, rows: Sequence[Row]) -> list[Row]:
    return [{"where": where, **row} for row in rows]


def dtype_of(setup: Setup, device: str) -> str:
    """Name the precision that every side computes in."""
    return str(choose_dtype(setup.settings.dtype, device)).removeprefix("torch.")


def _work(setup: Setup) -> str:
    mix = question(setup).mix
    steps = ", ".join(str(number) for number in sorted({entry.steps or 0 for entry in mix}))
    kinds = ", ".join(dict.fromkeys(entry.kind for entry in mix))
    dtype = dtype_of(setup, choose_device(setup.device))
    asked = f"{kinds}, steps {steps}, {setup.rounds} × {setup.count} jobs"
    return f"{setup.model} {mix[0].width}×{mix[0].height}, {asked}, {dtype}."
