"""`latentd bench paper`: samples a second of the paper's models on this machine, beside the paper's own figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from contract.card import ModelCard
from core.settings import Settings
from latentd.bench.machine import synchronize, this_machine
from latentd.bench.paper_models import BASELINE, ENTRIES, INPAINTING_STEPS, MODEL, Entry
from latentd.bench.report import Plot, Report, Row, Value
from latentd.bench.step_times import admission, make_request
from models.checkpoints.card import default_card
from models.checkpoints.checkpoint import Checkpoint
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Called
from workers.loading import choose_dtype

PLOT = Plot(x="model", y="× paper", series="px", panel="table")
TINY_SIDE = 32
CPU_BATCH, GPU_BATCH = 1, 16
ASSUMED = (
    f"The paper doesn't say the steps of Tab. 6; {INPAINTING_STEPS} are assumed, so that × LDM-1 is what compares."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `batch` pictures at a time, in `rounds` of which the median counts. `steps` fewer than the
    model's are run and the others extrapolated; nothing new begins after `budget_s` seconds."""

    batch: int
    steps: int | None
    rounds: int
    budget_s: float
    tiny: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one batch: `step_s` of each step, and the rest: encoding, decoding, pasting."""

    step_s: float
    rest_s: float


def bench(settings: Settings, plan: Plan, device: str, on_run: Callable[[], None]) -> Report:
    """Measure every entry; one model is in memory at a time.

    Raises:
        LatentdError: a job fails.
    """
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    dtype, began = choose_dtype(settings.dtype, device), time.monotonic()
    found: dict[Entry, Row] = {}
    left_out: list[str] = []
    for entry in ENTRIES:
        if time.monotonic() - began > plan.budget_s and found:
            left_out.append(entry.name)
            continue
        timing = _measured(entry, plan, device, dtype, on_run)
        found[entry] = _row(entry, plan, str(dtype).removeprefix("torch."), timing)
    return Report("paper", this_machine(device), tuple(_compared(found)), PLOT, tuple(_notes(plan, left_out)))


def _measured(entry: Entry, plan: Plan, device: str, dtype: torch.dtype, on_run: Callable[[], None]) -> Timing:
    model = entry.load(device, dtype, small=plan.tiny)
    card = _card(entry)
    engine = Engine(
        {model.id: model}, device=device, threads=torch.get_num_threads(), max_rows=plan.batch, strict_rows=2
    )
    timings = []
    for _ in range(plan.rounds + 1):
        timings.append(_batch(engine, card, entry, plan, device))
        on_run()
    counted = timings[1:]  # the first warmed up
    return Timing(median(one.step_s for one in counted), median(one.rest_s for one in counted))


def _card(entry: Entry) -> ModelCard:
    card = default_card(Checkpoint(entry.config, {}), entry.kind, "random")
    return ModelCard.model_validate(card | {"id": MODEL})


def _batch(engine: Engine, card: ModelCard, entry: Entry, plan: Plan, device: str) -> Timing:
    """Run as many jobs of one picture as a batch has: each is encoded, as samples of a data set are."""
    side = TINY_SIDE if plan.tiny else entry.side
    steps = min(plan.steps or entry.steps, entry.steps)
    synchronize(device)
    began = time.perf_counter()
    for number in range(plan.batch):
        request = make_request(card, entry.kind, number, width=side, height=side, steps=steps)
        small = side // card.scale
        files = {
            name: upload.model_copy(update={"width": small, "height": small}) for name, upload in request.files.items()
        }
        engine.admit(admission(str(number), request.model_copy(update=files)))
    stepping_s = _play(engine, device)
    whole_s = time.perf_counter() - began
    return Timing(stepping_s / steps, whole_s - stepping_s)


def _play(engine: Engine, device: str) -> float:
    """Finish all jobs; the seconds of turns that were calls."""
    stepping_s = 0.0
    while engine.busy:
        began = time.perf_counter()
        outcomes = engine.turn()
        synchronize(device)
        failed = next((one for one in outcomes if isinstance(one, Aborted)), None)
        if failed is not None:
            raise failed.error
        if any(isinstance(one, Called) for one in outcomes):
            stepping_s += time.perf_counter() - began
    return stepping_s


def _row(entry: Entry, plan: Plan, dtype: str, timing: Timing) -> Row:
    speed = plan.batch / (entry.steps * timing.step_s + timing.rest_s)
    return {
        "table": entry.table,
        "model": entry.model,
        "px": TINY_SIDE if plan.tiny else entry.side,
        "steps": entry.steps,
        "batch": plan.batch,
        "dtype": dtype,
        "samples/s": speed,
        "paper": entry.samples_s,
        "paper's card": entry.card,
        "× paper": speed / entry.samples_s,
    }


def _compared(found: Mapping[Entry, Row]) -> Iterator[Row]:
    """Add how much faster each is than the model over pixels, here and in the paper."""
    for entry, row in found.items():
        base = next((found[one] for one in found if _is_baseline(one, entry)), None)
        ratios = {"× LDM-1": "samples/s", "× LDM-1 in the paper": "paper"}
        yield {**row, **{name: _ratio(row[column], base, column) for name, column in ratios.items()}}


def _is_baseline(one: Entry, entry: Entry) -> bool:
    return (one.model, one.table, one.side) == (BASELINE, entry.table, entry.side)


def _ratio(value: Value, base: Row | None, column: str) -> float | None:
    most = None if base is None else base[column]
    return value / most if isinstance(value, float) and isinstance(most, float) else None


def _notes(plan: Plan, left_out: Sequence[str]) -> Iterator[str]:
    yield ASSUMED
    if plan.steps is not None:
        yield f"Extrapolated from runs of {plan.steps} steps."
    if plan.tiny:
        yield f"Tiny networks at {TINY_SIDE} pixels: these rows show that the bench runs, and nothing else."
    if left_out:
        yield f"Left out, as {plan.budget_s:.0f} s were over: {', '.join(left_out)}."


def runs_of(plan: Plan) -> int:
    """Count how often `bench` calls `on_run` at most."""
    return len(ENTRIES) * (plan.rounds + 1)
