"""`strict` on a device: a job's bytes are the same alone, among others, and when another process resumes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contract.add_ons import Hires
from latentd.bench.engine_speed import half_precision
from tests.engines import finished, make_request, play
from tests.gpu.devices import DEVICES, STRICT_ROWS, engine
from tests.gpu.test_parity import jobs
from tests.gpu.victim import STATE, strict_job
from tests.modules import ROOT
from workers.engine.messages import Admission, Called, Outcome, Prepared, Stepped


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
def test_strict_bytes_do_not_depend_on_the_others(device: str, half: bool) -> None:
    dtype = half_precision(device) if half else torch.float32
    outcomes = play(engine(device, dtype), jobs("strict"))
    together = finished(outcomes)
    assert {one.padded_rows for one in outcomes if isinstance(one, Called)} == {STRICT_ROWS}
    for job in jobs("strict"):
        alone = finished(play(engine(device, dtype), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes(), job.job_id


@pytest.mark.parametrize("device", DEVICES)
def test_a_job_of_a_killed_process_resumes_to_the_same_bytes(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.victim", device, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=env) as victim:
        assert victim.stdout is not None
        assert victim.stdin is not None
        steps = iter(victim.stdout)
        while next(steps).strip() != "3":
            victim.stdin.write("on\n")
        victim.send_signal(signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    job = strict_job()
    state = (tmp_path / STATE).read_bytes()
    outcomes = play(engine(device, torch.float32), [Admission(job.job_id, job.request, snapshot=state)])
    # Where calls are read late, a step is told when the next one is under way, and the state may hold that one, too.
    assert next(one.step for one in outcomes if isinstance(one, Prepared)) in (3, 4)
    unbroken = finished(play(engine(device, torch.float32), [job]))
    assert finished(outcomes)[job.job_id, 0].tobytes() == unbroken[job.job_id, 0].tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_a_job_in_its_second_pass_resumes_to_the_same_bytes(device: str, upscaler: str) -> None:
    second = Hires(scale=2.0, strength=0.5, steps=6, upscaler=upscaler)
    request = make_request(steps=2, determinism="strict", hires=second)
    one = engine(device, torch.float32)
    one.admit(Admission("two", request))
    outcomes: list[Outcome] = []
    while not any(isinstance(outcome, Stepped) and outcome.step > 3 for outcome in outcomes):
        outcomes += one.turn()
    state = one.snapshot("two")
    unbroken = finished(play(one))["two", 0]
    resumed = play(engine(device, torch.float32), [Admission("two", request, snapshot=state)])
    assert next(outcome.step for outcome in resumed if isinstance(outcome, Prepared)) > 3
    assert finished(resumed)["two", 0].tobytes() == unbroken.tobytes()
