"""Measures the step-time table offline: the real engine, one turn at a time, medians after a warm-up."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from contract.base import Kind
from contract.card import ModelCard
from contract.measurements import StepTimes, shape_cell, step_times
from contract.request import REQUESTS, JobRequest, parse_request
from contract.uploads import Upload
from latentd.bench.one_run import run
from workers.engine.engine import Engine
from workers.engine.kinds import KINDS, ReadUpload, as_depth, as_label_map, as_mask, as_picture
from workers.engine.messages import Aborted, Admission, Finished
from workers.engine.pictures import encode_picture, picture_text
from workers.metrics.gpu import device_kind
from workers.metrics.step_times import timed
from workers.planner.files import BenchReport

WARM_UP = 1  # calls of each size that count for nothing
CALLS = 3  # of each size, whose median counts


@dataclass(slots=True)
class ModelBench:
    """Seconds of every turn of one model, by cell of the table; `on_turn` moves a progress bar."""

    engine: Engine
    card: ModelCard
    folder: Path
    on_turn: Callable[[], None]
    _seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _count: int = 0

    def rows(self, rows: int) -> None:
        """Calls of exactly `rows` rows: guided as the model's default is, where that divides."""
        each = make_request(self.card, self.card.tasks[0], 0).rows_per_call
        guided = each > 1 and rows % each == 0
        scale = self.card.defaults.guidance_scale if guided else 1.0
        images = rows // each if guided else rows
        self._settle(num_images=images, guidance_scale=scale)
        self.play(self.card.tasks[0], num_images=images, steps=WARM_UP + CALLS, guidance_scale=scale)

    def kinds(self) -> None:
        """Encoding of every kind of job that the model does."""
        for kind in self.card.tasks:
            for _ in range(WARM_UP + CALLS):
                self.play(kind, steps=1)

    def _settle(self, **changes: object) -> None:
        """Let a call's size be fused first where a device does that."""
        denoiser = self.engine.models[self.card.id].denoiser
        if denoiser.captured is not None:
            run(self.engine, [admission("settle", make_request(self.card, self.card.tasks[0], 0, steps=1, **changes))])
            denoiser.settle()

    def play(self, kind: Kind, **changes: object) -> float:
        """One job, timed turn by turn; its seconds from admission to pictures."""
        request = make_request(self.card, kind, self._count, **changes)
        self._count += 1
        began = time.perf_counter()
        job = admission(f"bench-{self._count}", request)
        self.engine.admit(job)
        while self.engine.busy:
            self._turn(job)
        return time.perf_counter() - began

    def _turn(self, job: Admission) -> None:
        began = time.perf_counter()
        outcomes = self.engine.turn()
        seconds = time.perf_counter() - began
        for outcome in outcomes:
            if isinstance(outcome, Aborted):
                raise outcome.error
            if isinstance(outcome, Finished):
                self._store(job.request, outcome.picture)
        for _, shape, what, own_s in timed(outcomes, seconds, {job.job_id: job}):
            self._seconds[shape_cell(shape, what)].append(own_s)
        self.on_turn()

    def _store(self, request: JobRequest, picture: Image.Image) -> None:
        began = time.perf_counter()
        data = encode_picture(picture, request.output_format, picture_text(request, 0, self.card.hash))
        (self.folder / "picture").write_bytes(data)
        self._seconds["store"].append(time.perf_counter() - began)

    def table(self) -> StepTimes:
        """Medians; the first calls and preparations of each size are left out."""
        cells = {name: median(values[min(WARM_UP, len(values) - 1) :]) for name, values in self._seconds.items()}
        return step_times(self.card.id, self.card.latent_factor, cells)

    def images_per_s(self, kind: Kind, max_rows: int) -> float:
        """Of one job of the default request with as many images as fill a call."""
        rows = make_request(self.card, kind, 0).rows_per_call
        images = max(1, max_rows // rows)
        return images / self.play(kind, num_images=images)


def measure(engine: Engine, cards: Sequence[ModelCard], max_rows: int, on_turn: Callable[[], None]) -> BenchReport:
    """The tables of some models that `engine`, idle and with calls of up to `max_rows` rows, holds.

    Raises:
        LatentdError: a job fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = [(card, *_measure(engine, card, max_rows, Path(folder), on_turn)) for card in cards]
    return BenchReport(
        device=device_kind(next(iter(engine.models.values())).device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        max_rows=max_rows,
        tables=tuple(table for _, table, _ in done),
        images_per_s={f"{card.id} {kind}": speed for card, _, speeds in done for kind, speed in speeds.items()},
        cards=tuple(cards),
    )


def turns(cards: Sequence[ModelCard], max_rows: int) -> int:
    """About how many turns `measure` takes."""
    sized = len(list(_sizes(max_rows))) * (WARM_UP + CALLS + 2)
    return sum(sized + len(card.tasks) * 3 * (WARM_UP + CALLS) + card.defaults.steps + 4 for card in cards)


def _measure(
    engine: Engine, card: ModelCard, max_rows: int, folder: Path, on_turn: Callable[[], None]
) -> tuple[StepTimes, dict[Kind, float]]:
    bench = ModelBench(engine, card, folder, on_turn)
    for rows in _sizes(max_rows):
        bench.rows(rows)
    bench.kinds()
    table = bench.table()
    return table, {card.tasks[0]: bench.images_per_s(card.tasks[0], max_rows)}


def _sizes(max_rows: int) -> Iterator[int]:
    """1, 2, 4, … and the largest."""
    rows = 1
    while rows < max_rows:
        yield rows
        rows *= 2
    yield max_rows


def make_request(card: ModelCard, kind: Kind, number: int, **changes: object) -> JobRequest:
    """The default request of a model at its native size, with a prompt that no other number has."""
    side, defaults = card.native_size, card.defaults
    values: dict[str, object] = {
        "kind": kind,
        "model": card.id,
        "prompt": f"red heart {number}" if "prompt" in card.fields else "",
        "negative_prompt": defaults.negative_prompt,
        "width": side,
        "height": side,
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "sampler": defaults.sampler,
        "schedule": defaults.schedule,
        "seed": number,
    }
    body, size = REQUESTS[kind], side // card.scale
    layout = () if card.layout is None else (card.layout.none,) * card.layout.length
    values |= {"class_id": 0, "noise_level": defaults.noise_level, "tokens": layout}
    values |= {"image_guidance_scale": defaults.image_guidance_scale}
    values |= dict.fromkeys(body.file_names(), Upload(path="bench", sha256="", bytes=0, width=size, height=size))
    return parse_request({name: value for name, value in values.items() if name in body.model_fields} | changes)


def admission(job_id: str, request: JobRequest) -> Admission:
    """With a picture for every upload that the kind needs."""
    readers, uploads = KINDS[request.kind].files, request.files
    pictures = {name: DRAWN[read](uploads[name], request.seed) for name, read in readers.items()}
    return Admission(job_id, request, pictures)


def _noise(upload: Upload, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (upload.height, upload.width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _middle(upload: Upload, _seed: int) -> Image.Image:
    width, height = upload.width, upload.height
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return mask


def _nearing(upload: Upload, _seed: int) -> Image.Image:
    grey = Image.linear_gradient("L").resize((upload.width, upload.height))
    return grey.convert("I").point(lambda value: value * 257)  # 255 becomes 65535


def _one_class(upload: Upload, _seed: int) -> Image.Image:
    return Image.new("I", (upload.width, upload.height))


# What each reader of uploads would have read.
DRAWN: Mapping[ReadUpload, Callable[[Upload, int], Image.Image]] = {
    as_picture: _noise,
    as_mask: _middle,
    as_depth: _nearing,
    as_label_map: _one_class,
}
