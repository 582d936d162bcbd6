"""Twelve different requests at once on the default checkpoint share UNet calls; strict bytes don't notice."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image, ImageDraw

from core.pictures import lossless
from tests.service import Service

SIZE = 128
SAMPLERS = ("ddim", "plms", "euler", "dpmpp_2m", "ddpm", "unipc")
PROMPTS = ("red heart", "green apple", "blue fish", "sun", "grinning face", "yellow star")
STRICT_ROWS = 4


def requests() -> list[dict[str, Any]]:
    """Six texts and six repaints; 6 to 17 steps, every sampler, with and without guidance."""
    return [
        {
            "prompt": PROMPTS[k % 6],
            "steps": 6 + k,
            "sampler": SAMPLERS[k % 6],
            "guidance_scale": (4.0, 1.0, 2.5, 7.0)[k % 4],
            "seed": 100 + k,
        }
        for k in range(12)
    ]


def calls_alone(fields: dict[str, Any]) -> int:
    """One UNet call a step; PLMS starts with one more."""
    return int(fields["steps"]) + int(fields["sampler"] == "plms")


def files() -> dict[str, tuple[str, bytes, str]]:
    upload = Image.new("RGB", (SIZE, SIZE), (90, 140, 200))
    mask = Image.new("L", upload.size)
    ImageDraw.Draw(mask).rectangle((30, 30, 90, 90), fill=255)
    return {"image": ("a.png", lossless(upload), "image/png"), "mask": ("m.png", lossless(mask), "image/png")}


def draw(service: Service, k: int, determinism: str) -> dict[str, Any]:
    fields = requests()[k] | {"determinism": determinism}
    wait = {"Prefer": "wait=100"}
    if k % 2:
        form = {name: str(value) for name, value in fields.items()}
        answer = service.client.post("/v1/inpaint", data=form, files=files(), headers=wait)
    else:
        answer = service.client.post("/v1/txt2img", json=fields | {"width": SIZE, "height": SIZE}, headers=wait)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    assert job["status"] == "succeeded", job
    return job


def draw_all(service: Service, determinism: str) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(lambda k: draw(service, k, determinism), range(12)))


def step_rows(service: Service) -> dict[str, float]:
    """Buckets and count of latentd_step_rows, as the worker serves them."""
    text = service.client.get(f"http://127.0.0.1:{service.worker_metrics_port}/metrics").text
    found = dict(re.findall(r'latentd_step_rows_bucket\{le="([\d.]+)",model="emoji"\} ([\d.]+)', text))
    count = re.search(r'latentd_step_rows_count\{model="emoji"\} ([\d.]+)', text)
    return {name: float(value) for name, value in found.items()} | {"count": float(count[1]) if count else 0.0}


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[name] - before.get(name, 0.0)


def restart_worker(service: Service) -> None:
    """kill -9; the supervisor starts another."""
    (worker,) = service.named("worker")
    os.kill(worker, signal.SIGKILL)
    service.wait_until_served(worker)


def test_twelve_at_once_take_a_third_of_the_calls(service: Service) -> None:
    draw(service, 0, "fast")
    before = step_rows(service)
    draw_all(service, "fast")
    after = step_rows(service)
    below_full = grown(before, after, "12.0")
    assert grown(before, after, "16.0") > below_full, "some calls are full"
    assert grown(before, after, "16.0") == grown(before, after, "count"), "none is larger than LATENTD_MAX_ROWS"
    assert grown(before, after, "count") <= sum(calls_alone(fields) for fields in requests()) / 3


def test_strict_bytes_are_those_of_the_request_alone_after_a_restart(service: Service) -> None:
    before = step_rows(service)
    together = draw_all(service, "strict")
    after = step_rows(service)
    calls = grown(before, after, "count")
    assert grown(before, after, "4.0") == calls, "no call is larger than the strict size"
    assert grown(before, after, "2.0") <= calls / 5, "they fill it, but for the first and the last"
    numerics = together[0]["request"]["numerics"]
    assert numerics["rows"] == STRICT_ROWS
    restart_worker(service)
    for k, job in enumerate(together[: len(SAMPLERS)]):  # each sampler, both kinds, with and without guidance
        alone = draw(service, k, "strict")
        assert alone["request"]["numerics"] == numerics
        assert alone["images"][0]["sha256"] == job["images"][0]["sha256"], f"request {k}"
