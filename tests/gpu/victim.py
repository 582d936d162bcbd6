"""A process to be killed: runs a strict job and leaves its state in a file at each step. `DEVICE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.engines import make_request
from tests.gpu.devices import engine
from workers.engine.messages import Admission, Stepped

STATE = "state"


def strict_job() -> Admission:
    return Admission("victim", make_request(steps=8, sampler="dpmpp_2m", determinism="strict"))


def main(device: str, folder: Path) -> None:
    """Tell each step on standard output once its state is safe, and go on when there is a line on standard input."""
    one, job = engine(device, torch.float32), strict_job()
    one.admit(job)
    while one.busy:
        for outcome in one.turn():
            if isinstance(outcome, Stepped):
                _save(one.snapshot(job.job_id), folder)
                sys.stdout.write(f"{outcome.step}\n")
                sys.stdout.flush()
                sys.stdin.readline()


def _save(state: bytes | None, folder: Path) -> None:
    if state is not None:
        fresh = folder / "fresh"
        fresh.write_bytes(state)
        fresh.replace(folder / STATE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
