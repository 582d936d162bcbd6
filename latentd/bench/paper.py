"""`latentd bench paper`: samples a second of the paper's models on this machine, beside the paper's own figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from contract.card import ModelCard
from core.settings import Settings
from latentd.bench.machine import this_machine
from latentd.bench.one_run import Timing, engine_of, run
from latentd.bench.paper_models import BASELINE, ENTRIES, INPAINTING_STEPS, MODEL, Entry
from latentd.bench.report import Plot, Report, Row, Value
from latentd.bench.step_times import admission, make_request
from models.checkpoints.card import default_card
from models.checkpoints.checkpoint import Checkpoint
from workers.engine.messages import Admission
from workers.library.loading import choose_dtype

PLOT = Plot(x="model", y="× paper", series="px", panel="table")
TINY_SIDE = 32
CPU_BATCH, GPU_BATCH = 1, 16
ASSUMED = (
    f"The paper says neither the steps of Tab. 6 nor the UNet of LDM-1: {INPAINTING_STEPS} are assumed, and one of "
    "about the same size with levels down to the same 16×16."
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
    engine = engine_of(entry.load(device, dtype, small=plan.tiny), plan.batch)
    card = _card(entry)
    timings = []
    for _ in range(plan.rounds + 1):
        timings.append(run(engine, _batch(card, entry, plan)))
        on_run()
    counted = timings[1:]  # the first warmed up
    return Timing(median(one.steps_s for one in counted), median(one.rest_s for one in counted))


def _card(entry: Entry) -> ModelCard:
    card = default_card(Checkpoint(entry.config, {}), entry.kind, "random")
    return ModelCard.model_validate(card | {"id": MODEL})


def _batch(card: ModelCard, entry: Entry, plan: Plan) -> list[Admission]:
    """Make as many jobs of one picture as a batch has: each is encoded, as samples of a data set are."""
    side = TINY_SIDE if plan.tiny else entry.side
    size = {"width": side // card.scale, "height": side // card.scale}
    jobs = []
    for number in range(plan.batch):
        request = make_request(card, entry.kind, number, width=side, height=side, steps=_steps(entry, plan))
        files = {name: upload.model_copy(update=size) for name, upload in request.files.items()}
        jobs.append(admission(str(number), request.model_copy(update=files)))
    return jobs


def _steps(entry: Entry, plan: Plan) -> int:
    return min(plan.steps or entry.steps, entry.steps)


def _row(entry: Entry, plan: Plan, dtype: str, timing: Timing) -> Row:
    step_s = timing.steps_s / _steps(entry, plan)
    speed = plan.batch / (entry.steps * step_s + timing.rest_s)
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
