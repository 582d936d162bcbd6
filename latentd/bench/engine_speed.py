"""`latentd bench engine`: our loop beside diffusers' on the same weights, the same noise and the same steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import torch

from contract.card import ModelCard
from core.settings import Settings
from latentd.bench.in_diffusers import check_diffusers, in_diffusers, repeated
from latentd.bench.machine import peak_flops, seconds, this_machine
from latentd.bench.one_run import Timing, engine_of, run
from latentd.bench.random_model import card_of, loaded, unallocated
from latentd.bench.report import Plot, Report, Row, Value
from latentd.bench.shapes import SHAPES
from latentd.bench.step_times import admission, make_request
from models.checkpoints.checkpoint import Checkpoint
from models.samplers.noise import X_T, noise
from workers.engine.device import or_none
from workers.library.loading import choose_dtype
from workers.metrics.flops import row_flops

if TYPE_CHECKING:
    from latentd.bench.diffusers_loop import Condition, DiffusersModel

PLOT = Plot(x="batch", y="TFLOP/s", series="side", panel="model")
BATCHES = (1, 2, 4, 8, 16, 32)
SEED = 7
NOTE = (
    "it/s: steps of the whole batch a second, guided (two rows a picture). s a picture: {steps} steps and decoding, "
    "from runs of {run} steps. Peak: a product of two matrices on this machine in the same precision."
)


# Makes `batch` pictures in `steps` steps; None where they don't fit in memory.
Run: TypeAlias = Callable[[int, int], Timing | None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What all sides of one comparison have in common; `side` is in pixels."""

    name: str
    checkpoint: Checkpoint
    card: ModelCard
    side: int
    steps: int
    guidance_scale: float
    device: str
    most: int  # pictures of a batch


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run a model; `half` is the device's half precision, else float32."""

    name: str
    make: Callable[[Subject, torch.dtype], Run]
    half: bool


def half_precision(device: str) -> torch.dtype:
    """Return what a GPU multiplies; of CPUs bfloat16, whether they do or not."""
    return choose_dtype("auto", device) if torch.device(device).type == "cuda" else torch.bfloat16


def ours(subject: Subject, dtype: torch.dtype) -> Run:
    """The engine that workers have, with one job at a time."""
    model = loaded(subject.checkpoint, subject.name, subject.device, dtype)
    engine, settled = engine_of(model, 2 * subject.most), set[int]()
    size = {"width": subject.side, "height": subject.side, "guidance_scale": subject.guidance_scale}

    def run_job(batch: int, steps: int) -> Timing | None:
        request = make_request(subject.card, "txt2img", SEED, **size, steps=steps, num_images=batch, sampler="ddim")
        if batch not in settled:  # what the first call of a size began to fuse is waited for, then recorded
            settled.add(batch)
            run(engine, [admission("first", request)])
            model.denoiser.settle()
            run(engine, [admission("second", request)])
        timing = run(engine, [admission("bench", request)])
        return None if timing.split else timing

    return run_job


def diffusers_eager(subject: Subject, dtype: torch.dtype) -> Run:
    """As `from_pretrained` gives it."""
    return _theirs(subject, in_diffusers(subject.checkpoint, subject.device, dtype), dtype)


def diffusers_channels_last(subject: Subject, dtype: torch.dtype) -> Run:
    """As diffusers' documents advise."""
    return _theirs(subject, _channels_last(subject, dtype), dtype)


def diffusers_compiled(subject: Subject, dtype: torch.dtype) -> Run:
    """As they advise for speed: channels_last, the UNet compiled; with CUDA graphs on a GPU."""
    from latentd.bench.diffusers_loop import DiffusersModel

    model = _channels_last(subject, dtype)
    mode = "reduce-overhead" if torch.device(subject.device).type == "cuda" else "default"
    unet = torch.compile(model.unet, mode=mode, fullgraph=True, dynamic=False)
    return _theirs(subject, DiffusersModel(unet, model.vae, model.schedule), dtype)


def _channels_last(subject: Subject, dtype: torch.dtype) -> DiffusersModel:
    model = in_diffusers(subject.checkpoint, subject.device, dtype)
    for module in (model.unet, model.vae):
        module.to(memory_format=torch.channels_last)
    return model


def _theirs(subject: Subject, model: DiffusersModel, dtype: torch.dtype) -> Run:
    condition, shape = conditioned(subject, dtype)

    def run_loop(batch: int, steps: int) -> Timing | None:
        drawn = torch.stack([noise(SEED + i, X_T, 0, shape) for i in range(batch)])
        z_t, given = drawn.to(subject.device, dtype), condition(batch)
        # The engine fixes cuDNN to algorithms that repeat; nobody else would.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):
            return or_none(lambda: _timed(subject, model, z_t, given, steps))

    return run_loop


def _timed(subject: Subject, model: DiffusersModel, z_t: torch.Tensor, condition: Condition, steps: int) -> Timing:
    made: list[torch.Tensor] = []
    scale, device = subject.guidance_scale, subject.device
    steps_s = seconds(lambda: made.append(model.denoise(z_t, condition, steps, scale)), device)
    return Timing(steps_s, seconds(lambda: model.decode(made[0]), device))


@torch.inference_mode()
def conditioned(subject: Subject, dtype: torch.dtype) -> tuple[Callable[[int], Condition], tuple[int, ...]]:
    """Encode the prompt by our model, which isn't kept. What is returned repeats it for a batch; a latent's shape."""
    model = loaded(subject.checkpoint, subject.name, subject.device, dtype)
    request = make_request(subject.card, "txt2img", SEED, width=subject.side, height=subject.side)
    shape = (model.latent_channels, *[subject.side // model.latent_factor] * 2)
    given = model.encode_prompts([request.text])
    null = model.no_prompt() if model.config.zeros_for_no_prompt else model.encode_prompts([""])
    concat = None if model.config.concat is None else model.blank_concat(*shape[1:])
    return partial(repeated, given, null, concat, request.told_sizes, dtype), shape


_ALL = (
    Side("latentd", ours, half=True),
    Side("latentd float32", ours, half=False),
    Side("diffusers float32", diffusers_eager, half=False),
    Side("diffusers", diffusers_eager, half=True),
    Side("diffusers channels_last", diffusers_channels_last, half=True),
    Side("diffusers compiled", diffusers_compiled, half=True),
)
SIDES: Mapping[str, Side] = {side.name: side for side in _ALL}
SLOW = ("diffusers compiled",)  # on a CPU: compiling takes a minute a batch size


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: `steps` of a run (None: the model's), `rounds` of which the median counts; nothing new begins
    after `budget_s` seconds."""

    models: Sequence[str]
    sides: Sequence[str]
    batches: Sequence[int]
    steps: int | None
    rounds: int
    budget_s: float
    tiny: bool = False


def bench(settings: Settings, plan: Plan, device: str, on_run: Callable[[], None]) -> Report:
    """Measure every model in batches of every size, all sides in turn in each round.

    Raises:
        LatentdError: diffusers is to be compared with and isn't there, a job fails.
    """
    if any(SIDES[name].make is not ours for name in plan.sides):
        check_diffusers()
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    ends = time.monotonic() + plan.budget_s
    rows: list[Row] = []
    notes: list[str] = []
    for name in plan.models:
        if time.monotonic() < ends:
            subject = _subject(settings, name, plan, device)
            notes.append(f"{name}: " + NOTE.format(steps=subject.steps, run=plan.steps or subject.steps))
            rows += sorted(_measured(subject, plan, ends, on_run), key=lambda row: int(row["batch"] or 0))
    done = {(row["model"], row["batch"]) for row in rows}
    left_out = [f"{name} batch {batch}" for name in plan.models for batch in plan.batches if (name, batch) not in done]
    if left_out:
        notes.append(f"Left out, as {plan.budget_s:.0f} s were over: {', '.join(left_out)}.")
    return Report("engine", this_machine(device), tuple(rows), PLOT, tuple(notes))


def _subject(settings: Settings, name: str, plan: Plan, device: str) -> Subject:
    shape = SHAPES[name]
    checkpoint, side = shape.smallest(settings, device) if plan.tiny else (shape.read(settings, device), shape.side)
    card = card_of(checkpoint, name)
    most = max(plan.batches)
    return Subject(name, checkpoint, card, side, shape.steps, shape.guidance_scale, device, most)


def _measured(subject: Subject, plan: Plan, ends: float, on_run: Callable[[], None]) -> Iterator[Row]:
    """Measure one batch size after another, as long as there is time."""
    half = half_precision(subject.device)
    dtypes = {name: half if SIDES[name].half else torch.float32 for name in plan.sides}
    peaks = {dtype: peak_flops(subject.device, dtype, 256 if plan.tiny else None) for dtype in set(dtypes.values())}
    runs = {name: SIDES[name].make(subject, dtype) for name, dtype in dtypes.items()}
    flops = _row_flops(subject)
    for batch in plan.batches:
        if time.monotonic() >= ends:
            return
        for name, timing in rounds_of(runs, batch, plan.steps or subject.steps, plan.rounds, on_run).items():
            dtype = dtypes[name]
            yield _row(subject, batch, name, dtype, timing, plan, 2 * batch * flops, peaks[dtype])


def rounds_of(
    runs: Mapping[str, Run], batch: int, steps: int, rounds: int, on_run: Callable[[], None]
) -> dict[str, Timing | None]:
    """Warm every side up, then take medians of rounds in which each has its turn; None for those that don't fit."""
    seen: dict[str, list[Timing]] = {name: [] for name in runs}
    fits = dict.fromkeys(runs, True)
    for _ in range(rounds + 1):
        for name, run_side in runs.items():
            if fits[name]:
                timing = run_side(batch, steps)
                fits[name] = timing is not None
                seen[name] += [] if timing is None else [timing]
            on_run()
    return {name: _median(timings[1:]) if fits[name] else None for name, timings in seen.items()}


def _median(timings: Sequence[Timing]) -> Timing:
    return Timing(median(one.steps_s for one in timings), median(one.rest_s for one in timings))


def _row(
    subject: Subject,
    batch: int,
    side: str,
    dtype: torch.dtype,
    timing: Timing | None,
    plan: Plan,
    flops: float,
    peak: float,
) -> Row:
    row: dict[str, Value] = {"model": subject.name, "px": subject.side, "batch": batch, "side": side}
    row["dtype"] = str(dtype).removeprefix("torch.")
    if timing is None:
        return row | dict.fromkeys(("it/s", "s a picture", "TFLOP/s", "share of peak"))
    step_s = timing.steps_s / (plan.steps or subject.steps)
    return row | {
        "it/s": 1 / step_s,
        "s a picture": (subject.steps * step_s + timing.rest_s) / batch,
        "TFLOP/s": flops / step_s / 1e12,
        "share of peak": flops / step_s / peak,
    }


def _row_flops(subject: Subject) -> float:
    model = unallocated(subject.checkpoint.config, subject.name, subject.checkpoint.tokenizers)
    side = subject.side // model.latent_factor
    return row_flops(model)((model.latent_channels, side, side))


def runs_of(plan: Plan) -> int:
    """Count how often `bench` calls `on_run` at most."""
    return len(plan.models) * len(plan.batches) * len(plan.sides) * (plan.rounds + 1)
