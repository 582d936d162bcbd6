"""`python -m tests.soak.steady [--minutes 47] [--rate 2]`: does a service that forgets stay as large as it is?

One `latentd up` on the tiny models with short retention takes jobs at a steady rate. Every ten seconds the memory and
open files of each process are read, and Redis' keys and memory; the last two thirds must not grow.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from redis import Redis

from core.settings import Settings
from tests.service import Service
from tests.tiny import write_tiny_inpaint, write_tiny_upscale

SAMPLE_S = 10.0
ENDS = 12  # samples at each end of the judged time that are averaged: two minutes
RSS_BOUND_MB, FILES_BOUND, REDIS_BOUND = 20.0, 5.0, 0.05
KINDS = ("up", "redis", "worker", "gateway")


@dataclass
class Story:
    """What was seen: samples by name, answers by status, images that were fetched."""

    samples: list[dict[str, float]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


def service_in(folder: Path) -> Service:
    write_tiny_inpaint(folder / "models" / "tiny")
    write_tiny_upscale(folder / "models" / "tiny-upscale")
    forget = {"LATENTD_RETENTION_S": "60", "LATENTD_GONE_S": "120", "LATENTD_LOG_LEVEL": "warning"}
    models = {"LATENTD_MODELS_DIR": str(folder / "models"), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}
    return Service(forget | models)


def draw(service: Service, number: int, story: Story) -> None:
    """One job as a client would have it: post, wait, fetch the picture; every 10th cancelled, every 50th refused."""
    fields = {"prompt": "red heart", "seed": number, "steps": 2 + number % 9, "guidance_scale": 1.0 + number % 3}
    if number % 50 == 49:
        fields["steps"] = 0
    wait = {} if number % 10 == 9 else {"Prefer": "wait=100"}
    answer = service.client.post("/v1/txt2img", json=fields, headers=wait)
    story.answers[f"post {answer.status_code}"] += 1
    if answer.status_code == 202:
        ended = service.client.delete(f"/v1/jobs/{answer.json()['id']}")
        story.answers[f"cancel {ended.status_code}"] += 1
    elif answer.status_code == 200:
        story.answers[answer.json()["status"]] += 1
        service.image(answer.json())


def pids(service: Service) -> Iterator[tuple[str, int]]:
    """Processes of the service by kind."""
    for pid in (service.pid, *service.processes()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        yield next((kind for kind in KINDS[2:] if kind.encode() in words), "up" if pid == service.pid else "redis"), pid


def sample(service: Service, redis: Redis) -> dict[str, float]:
    seen: dict[str, float] = {"time": time.monotonic(), "keys": redis.dbsize()}
    seen["redis used_memory MB"] = redis.info("memory")["used_memory"] / 2**20
    for kind, pid in pids(service):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        seen[f"{kind} RSS MB"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        seen[f"{kind} files"] = len(os.listdir(f"/proc/{pid}/fd"))
    return seen


def drive(service: Service, redis: Redis, minutes: float, rate: float, story: Story) -> None:
    """Jobs at `rate` a second for `minutes`, sampled meanwhile."""
    began, number, next_sample = time.monotonic(), 0, 0.0
    with ThreadPoolExecutor(16) as pool:
        while (now := time.monotonic() - began) < minutes * 60:
            if now >= next_sample:
                story.samples.append(sample(service, redis))
                next_sample += SAMPLE_S
            if number < now * rate:
                future = pool.submit(draw, service, number, story)
                future.add_done_callback(lambda done: note(done.exception(), story))
                number += 1
            else:
                time.sleep(0.02)


def note(error: BaseException | None, story: Story) -> None:
    if error is not None:
        story.answers[type(error).__name__] += 1


def judge(story: Story) -> tuple[list[str], list[str]]:
    """Lines of a table of growth over the last two thirds, and what exceeded its bound."""
    last = story.samples[len(story.samples) // 3 :]
    lines, complaints = ["| figure | at first | at last | growth |", "|---|---|---|---|"], []
    for name in sorted(last[0].keys() - {"time"}):
        first, end = (mean(s[name] for s in part) for part in (last[:ENDS], last[-ENDS:]))
        if name == "keys" or "used_memory" in name:
            grown, ok = f"{(end - first) / first:+.1%}", end - first < REDIS_BOUND * first
        else:
            grown, ok = f"{end - first:+.1f}", end - first < (RSS_BOUND_MB if "RSS" in name else FILES_BOUND)
        lines.append(f"| {name} | {first:.1f} | {end:.1f} | {grown} |")
        complaints += [] if ok else [f"{name} grew by {grown}"]
    return lines, complaints


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.steady", description=__doc__)
    parser.add_argument("--minutes", type=float, default=47.0)
    parser.add_argument("--rate", type=float, default=2.0, help="jobs a second")
    parser.add_argument("--log", type=Path, help="where the page is written")
    options = parser.parse_args()
    story = Story()
    with tempfile.TemporaryDirectory(prefix="latentd-steady-") as folder, service_in(Path(folder)) as service:
        url = Settings(data_dir=Path(service.env["LATENTD_DATA_DIR"]), redis_url=None).redis
        with Redis.from_url(url) as redis:
            drive(service, redis, options.minutes, options.rate, story)
    table, complaints = judge(story)
    answers = ", ".join(f"{name}: {count}" for name, count in sorted(story.answers.items()))
    head = f"{options.minutes:g} minutes at {options.rate:g} jobs a second, retention 60 s, 410s 120 s. {answers}."
    judged = f"Averages of two minutes at both ends of the last {options.minutes * 2 / 3:.0f} minutes:"
    text = "\n".join(["# A steady soak", "", head, "", judged, "", *table, "", *complaints]).rstrip() + "\n"
    if options.log is not None:
        options.log.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
