"""Jobs that begin together on an idle engine, and how long their steps and all the rest took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.pipeline import LatentDiffusion
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Admission, Called, OutOfMemory, Prepared


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
    )


def run(engine: Engine, jobs: Sequence[Admission]) -> Timing:
    """Play jobs of equal steps to their pictures. An engine that was idle is idle again.

    Raises:
        LatentdError: a job fails.
    """
    began = time.perf_counter()
    for job in jobs:
        engine.admit(job)
    prepared = stepped = began
    split = False
    while engine.busy:
        for outcome in engine.turn():
            if isinstance(outcome, Aborted):
                raise outcome.error
            # A call is reported once it has ended: nothing has to be waited for here.
            if isinstance(outcome, Prepared):
                prepared = time.perf_counter()
            elif isinstance(outcome, Called):
                stepped = time.perf_counter()
            split = split or isinstance(outcome, OutOfMemory)
    steps_s = stepped - prepared
    return Timing(steps_s, time.perf_counter() - began - steps_s, split)
