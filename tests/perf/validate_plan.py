"""Does `latentd plan` predict this machine? A real worker process serves Poisson arrivals; the planner says before what
will come of it. Mean within 15 %, 99th percentile within 30 %, else exit 1; 2 if the machine itself changed meanwhile.

    python -m tests.perf.validate_plan [--jobs 400] [--load 0.6] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import fmean

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rich.console import Console

from contract.job import TERMINAL, JobRecord
from contract.measurements import StepTimes
from core.settings import Settings
from tests.enqueue import enqueue, job_state
from tests.integration.processes import WorkerProcess
from tests.redis_server import RedisServer
from tests.service import free_port
from workers.engine.scheduler import Policy
from workers.planner.answer import percentile
from workers.planner.costs import Costs, price
from workers.planner.files import live_tables
from workers.planner.mix import Arrival, JobClass, arrivals
from workers.planner.simulation import SimRun, simulate

MODEL = "emoji"
SMALL = {"kind": "txt2img", "model": MODEL, "width": 64, "height": 64, "guidance_scale": 4.0}
MIX = (
    JobClass.model_validate(SMALL | {"steps": 8, "weight": 3}),
    JobClass.model_validate(SMALL | {"steps": 6, "num_images": 2, "priority": "bulk"}),
)
BURSTS = (1, 2, 3, 4, 6, 8) * 4  # images at a time, so that calls of every size are measured before the prediction
MEAN_WITHIN, P99_WITHIN = 0.15, 0.30
QUIET = 0.05  # change of the calls' times beyond which a prediction made before was of another machine
WAIT_S = 600.0


@contextmanager
def worker(redis_url: str, folder: Path, port: int) -> Iterator[None]:
    """`latentd worker --model emoji` as a process, ready; it computes on one core, the load comes from another."""
    command = ("worker", "--model", MODEL, "--device", "cpu", "--metrics-port", str(port))
    settings = Settings(redis_url=redis_url, data_dir=folder)
    process = WorkerProcess(settings, folder, forked=False, command=command)
    try:
        process.ready()
        yield
    finally:
        process.stop(60)


def put(redis: Redis, name: str, one: JobClass) -> str:
    job_id = f"job-{name}"
    fields = one.model_dump(exclude={"weight", "model"})
    enqueue(redis, job_id, one.request.model_copy(update={"seed": abs(hash(name)) % 2**32, **fields}))
    return job_id


def until_ended(redis: Redis, job_ids: Sequence[str]) -> None:
    ends = time.monotonic() + WAIT_S
    for job_id in job_ids:
        while job_state(redis, job_id)["status"] not in TERMINAL:
            if time.monotonic() > ends:
                raise TimeoutError(f"{job_id} has not ended within {WAIT_S:g} s")
            time.sleep(0.05)


def calls(port: int) -> tuple[float, float, float]:
    """UNet calls of the worker so far, their rows and their seconds."""
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == MODEL
    }
    return found["latentd_step_rows_count"], found["latentd_step_rows_sum"], found["latentd_step_seconds_sum"]


def calibrate(redis: Redis) -> dict[str, StepTimes]:
    """Let the worker measure every size of call, and read what it published."""
    single = MIX[0]
    for burst, images in enumerate(BURSTS):
        until_ended(redis, [put(redis, f"calibrate-{burst}-{k}", single) for k in range(images)])
    time.sleep(5)  # until the next beat
    return dict(live_tables(redis, [MODEL]).tables)


def serve(redis: Redis, stream: Sequence[Arrival]) -> list[float]:
    """Enqueue each job at its time; seconds from its arrival to its result."""
    began, job_ids = time.monotonic(), []
    for number, arrival in enumerate(stream):
        time.sleep(max(0.0, began + arrival.time - time.monotonic()))
        job_ids.append(put(redis, f"{number}", MIX[arrival.index]))
    until_ended(redis, job_ids)
    return [seconds(redis, job_id) for job_id in job_ids]


def seconds(redis: Redis, job_id: str) -> float:
    state = job_state(redis, job_id)
    if state["status"] != "succeeded":
        raise RuntimeError(f"{job_id} {state['status']}: {state.get('error')}")
    created = JobRecord.model_validate_json(state["record"]).created_at
    return (datetime.fromisoformat(state["ended_at"]) - created).total_seconds()


def predicted(costs: Costs, stream: Sequence[Arrival]) -> list[float]:
    return results(simulate(costs, stream, 1, Policy()))


def results(run: SimRun) -> list[float]:
    return [job.ended - job.arrived for job in run.jobs]


def summary(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), percentile(sorted(values), 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--load", type=float, default=0.6, help="share of what full calls could serve")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    port = free_port()
    with (
        RedisServer(aof=True) as server,
        tempfile.TemporaryDirectory() as folder,
        worker(server.url, Path(folder), port),
    ):
        redis = server.connect()
        tables = calibrate(redis)
        costs = price(MIX, tables)
        shares = [one.weight / sum(each.weight for each in MIX) for one in MIX]
        rate = options.load / sum(share * costs.gpu_s(job, 16) for share, job in zip(shares, costs.jobs, strict=True))
        stream = arrivals(MIX, rate, options.jobs, options.seed)
        run = simulate(costs, stream, 1, Policy())
        before, earlier = summary(results(run)), calls(port)
        served = serve(redis, stream)
        did = [now - then for now, then in zip(calls(port), earlier, strict=True)]
        time.sleep(5)
        later = dict(live_tables(redis, [MODEL]).tables)
        after = summary(predicted(price(MIX, later), stream))
    others = [summary(predicted(costs, arrivals(MIX, rate, 3000, seed))) for seed in range(1, 4)]
    held = show(rate, summary(served), before, after, others, tables[MODEL])
    console = Console(soft_wrap=True, highlight=False)
    by_class(console, stream, served, results(run))
    console.print(f"calls: live {did[0]:.0f} of {did[1] / did[0]:.2f} rows, {did[2]:.1f} s")
    console.print(f"  predicted {run.calls} of {run.rows_per_call:.2f} rows; all turns {run.busy_s:.1f} s")
    sys.exit(verdict(console, held, drift(tables, later)))


def verdict(console: Console, held: bool, drifted: float) -> int:
    """The exit code: 2 where a prediction that failed was one of another machine."""
    console.print(f"calls at the end of the run took {drifted:+.0%}")
    if held:
        return 0
    if abs(drifted) > QUIET:
        console.print("the machine changed meanwhile: this says nothing of the planner")
        return 2
    return 1


def by_class(console: Console, stream: Sequence[Arrival], live: Sequence[float], guessed: Sequence[float]) -> None:
    """Print what each class of the mix saw, and should have."""
    for index, one in enumerate(MIX):
        places = [place for place, arrival in enumerate(stream) if arrival.index == index]
        (seen, seen_p99), (mean, p99) = (summary([values[place] for place in places]) for values in (live, guessed))
        console.print(f"{one.name}: live mean {seen:.3f} s p99 {seen_p99:.3f} s, predicted {mean:.3f} s {p99:.3f} s")


def drift(before: dict[str, StepTimes], after: dict[str, StepTimes]) -> float:
    """How much longer calls took after the run than before: beyond a few percent the machine was not quiet."""
    old, new = before[MODEL].shapes[0].calls, after[MODEL].shapes[0].calls
    return fmean(new[rows] / old[rows] for rows in old) - 1


def show(
    rate: float,
    live: tuple[float, float],
    before: tuple[float, float],
    after: tuple[float, float],
    others: Sequence[tuple[float, float]],
    table: StepTimes,
) -> bool:
    """Print the comparison; whether the prediction held."""
    errors = [guess / seen - 1 for guess, seen in zip(before, live, strict=True)]
    console = Console(soft_wrap=True, highlight=False)
    console.print(table.to_json(), markup=False)
    console.print(f"rate {rate:.2f} jobs/s")
    console.print(f"live                 mean {live[0]:.3f} s  p99 {live[1]:.3f} s")
    console.print(
        f"predicted before     mean {before[0]:.3f} s  p99 {before[1]:.3f} s  {errors[0]:+.1%} {errors[1]:+.1%}"
    )
    console.print(f"with the run's times mean {after[0]:.3f} s  p99 {after[1]:.3f} s")
    for mean, p99 in others:
        console.print(f"other arrivals       mean {mean:.3f} s  p99 {p99:.3f} s")
    return abs(errors[0]) <= MEAN_WITHIN and abs(errors[1]) <= P99_WITHIN


if __name__ == "__main__":
    main()
