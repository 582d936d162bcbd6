"""Draws docs/images/board-*.png: `python -m tests.deploy.screenshots`; three minutes of load with troubles in between.

Tiny models on the CPU; what a GPU tells is the stand-in's, and the pictures say so.
"""

from __future__ import annotations

import math
import random
import tempfile
import threading
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from deploy.grafana.boards import BOARDS
from deploy.grafana.render import Span, render
from tests.deploy import troubles
from tests.deploy.files import ROOT
from tests.deploy.prometheus import Prometheus
from tests.nvml import UUID, StandInNvml
from tests.service import Service
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.metrics.gpu import Gpu, GpuCollector

SECONDS, A_SECOND = 120.0, 2.0
NOTE = "A load run of the test models on a CPU, scraped by Prometheus. GPU values are a stand-in's, made up (no GPU)."


class Load(threading.Thread):
    """Jobs of mixed steps, sizes and lanes at random moments, until stopped; the stand-in's card follows them."""

    def __init__(self, service: Service, card: StandInNvml) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._card = card
        self.stopping = threading.Event()

    def run(self) -> None:
        dice, began = random.Random(0), time.monotonic()
        while not self.stopping.is_set():
            wave = 0.6 + 0.4 * math.sin((time.monotonic() - began) / 12)
            self._card.utilization = int(60 + 38 * wave * dice.random())
            self._card.milliwatts = 120_000 + 5_500 * self._card.utilization
            self._one(dice)
            self.stopping.wait(dice.expovariate(A_SECOND * wave))

    def _one(self, dice: random.Random) -> None:
        fields = {"prompt": "red heart", "steps": dice.choice((4, 20, 50)), "guidance_scale": dice.choice((1.0, 4.0))}
        lane = dice.choice(("interactive", "interactive", "bulk"))
        self._service.client.post(
            "/v1/txt2img", json={**fields, "priority": lane, "num_images": dice.choice((1, 1, 2))}
        )


def have_trouble(service: Service) -> None:
    troubles.refuse_some(service)
    time.sleep(15)
    killed = troubles.kill_a_worker(service)
    troubles.refuse_some(service)
    troubles.take_storage_away(service)
    time.sleep(10)
    troubles.cancel_one(service)
    troubles.split_a_batch(service)
    troubles.draw_some(service)
    troubles.finish(service, killed)


def draw(service: Service) -> None:
    card, registry = StandInNvml(), CollectorRegistry()
    registry.register(GpuCollector(Gpu(card, UUID, "0", 989.4e12)))
    server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    worker = f"127.0.0.1:{service.worker_metrics_port}"
    targets = {"latentd-gateway": f"127.0.0.1:{service.port}", "latentd-worker": worker}
    jobs = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    stand_in = {"targets": [f"127.0.0.1:{server.server_port}"], "labels": {"instance": worker}}
    jobs.append({"job_name": "stand-in", "static_configs": [stand_in]})
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs}
    with Prometheus(config) as prometheus:
        began, load = time.time(), Load(service, card)
        load.start()
        have_trouble(service)
        time.sleep(max(0.0, SECONDS - (time.time() - began)))
        load.stopping.set()
        load.join()
        troubles.miss_a_deadline(service)
        time.sleep(5)
        span = Span(began + 8, time.time(), 1.0, "15s")
        for board in BOARDS:
            file = ROOT / "docs" / "images" / f"board-{board.name.removeprefix('latentd-')}.png"
            render(board, prometheus, span, NOTE, file)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_inpaint(Path(folder) / "tiny")
        write_tiny_upscale(Path(folder) / "tiny-upscale")
        env = {"LATENTD_MODELS_DIR": folder, "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with Service(env | troubles.MALLOC) as started:
            draw(started)
