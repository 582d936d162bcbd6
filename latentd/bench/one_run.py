"""Jobs that begin together on an idle engine, and how long their steps and all the rest took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.pipeline.pipeline import LatentDiffusion
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Admission, Finished, OutOfMemory, Prepared


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the steps, and of encoding, decoding and finishing; `split`: calls were too large for the memory."""

    steps_s: float
    rest_s: float
    split: bool = False


def engine_of(model: LatentDiffusion, max_rows: int) -> Engine:
    """Make an engine as a worker has it, with one model."""
    threads = torch.get_num_threads()
    return Engine(
        {model.id: model},
        device=str(model.device),
        threads=threads,
        max_rows=max_rows,
        strict_rows=max(2, max_rows),
        as_gpu=model.device.type == "cuda",
    )


def run(engine: Engine, jobs: Sequence[Admission]) -> Timing:
    """Play jobs of equal steps to their pictures. An engine that was idle is idle again.

    Raises:
        LatentdError: a job fails.
    """
    began = time.perf_counter()
    for job in jobs:
        engine.admit(job)
    rest_s, split = time.perf_counter() - began, False
    while engine.busy:
        for outcome in engine.turn():
            if isinstance(outcome, Aborted):
                raise outcome.error
            # On a GPU the last call is reported when decoding has begun, which is timed from that call's end on.
            if isinstance(outcome, Prepared):
                rest_s += outcome.seconds
            elif isinstance(outcome, Finished):
                rest_s += outcome.decode_s
            split = split or isinstance(outcome, OutOfMemory)
    return Timing(time.perf_counter() - began - rest_s, rest_s, split)
