"""Every panel of every board, asked of a real Prometheus that scraped a service in trouble, has data."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy import troubles
from tests.deploy.files import DASHBOARDS, KUBERNETES, documents
from tests.deploy.prometheus import Prometheus
from tests.nvml import UUID, StandInNvml
from tests.service import Service
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from tests.waits import wait_for
from workers.metrics.gpu import Gpu, GpuCollector

pytestmark = pytest.mark.timeout(600)  # its one set-up has all the trouble, and shares the cores
TILES = [
    (file.stem, panel) for file in sorted(DASHBOARDS.iterdir()) for panel in json.loads(file.read_text())["panels"]
]

MODELS, KINDS, LANES, OUTCOMES, STAGES, ROUTES, METHODS, STATUSES, REASONS = 2, 8, 2, 3, 4, 24, 8, 24, 25
# The most label sets of each family, whatever clients send.
CEILINGS = {
    "latentd_http_requests": ROUTES * METHODS * STATUSES,
    "latentd_http_request_seconds": ROUTES,
    "latentd_queue_depth": MODELS * LANES,
    "latentd_queue_oldest_seconds": MODELS * LANES,
    "latentd_jobs_parked": MODELS * LANES,
    "latentd_workers": MODELS,
    "latentd_redis_up": 1,
    "latentd_redis_may_evict": 1,
    "latentd_redis_memory_ratio": 1,
    "latentd_clock_ahead_seconds": 1,
    "latentd_bodies_bytes": 1,
    "latentd_jobs_accepted": KINDS * MODELS * LANES,
    "latentd_jobs_unserved": KINDS * MODELS * LANES * OUTCOMES,
    "latentd_rejected": REASONS,
    "latentd_jobs": KINDS * MODELS * LANES * OUTCOMES,
    "latentd_images": KINDS * MODELS,
    "latentd_denoising_steps": MODELS,
    "latentd_step_rows": MODELS,
    "latentd_step_rows_limit": MODELS,
    "latentd_step_seconds": MODELS,
    "latentd_stage_seconds": STAGES * MODELS,
    "latentd_slots_in_use": MODELS,
    "latentd_retries": 2,
    "latentd_oom": MODELS,
    "latentd_storage_errors": 1,
    "latentd_unet_flops": MODELS,
    "latentd_network_info": MODELS,
    "latentd_model_resident": MODELS,
    "latentd_model_loads": MODELS * OUTCOMES,
    "latentd_model_evictions": MODELS,
    "latentd_gpu_utilization_ratio": 1,
    "latentd_gpu_memory_used_bytes": 1,
    "latentd_gpu_memory_total_bytes": 1,
    "latentd_gpu_power_watts": 1,
    "latentd_gpu_peak_flops": 1,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_inpaint(models / "tiny")
    write_tiny_upscale(models / "tiny-upscale")
    env = {"LATENTD_MODELS_DIR": str(models), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with Service(env | troubles.MALLOC) as started:
        yield started


@pytest.fixture(scope="module")
def gpu_port() -> Iterator[int]:
    """Metrics of a card that isn't there: made-up values of the stand-in for NVML."""
    registry = CollectorRegistry()
    registry.register(GpuCollector(Gpu(StandInNvml(), UUID, "0", 989.4e12)))
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(service: Service, gpu_port: int) -> Iterator[Prometheus]:
    """Scrapes gateway, worker and, under the worker's name, the stand-in's card; trouble has been had."""
    worker = f"127.0.0.1:{service.worker_metrics_port}"
    card = {"targets": [f"127.0.0.1:{gpu_port}"], "labels": {"instance": worker}}
    targets = {"latentd-gateway": {"targets": [f"127.0.0.1:{service.port}"]}, "latentd-worker": {"targets": [worker]}}
    jobs = [{"job_name": job, "static_configs": [one]} for job, one in (targets | {"latentd-gpu": card}).items()]
    with Prometheus({"global": {"scrape_interval": "500ms"}, "scrape_configs": jobs}) as started:
        started.wait_until_up(*targets, "latentd-gpu")
        have_trouble(service, started)
        yield started


def have_trouble(service: Service, prometheus: Prometheus) -> None:
    killed = troubles.kill_a_worker(service)
    troubles.split_a_batch(service)  # first: the new worker has kept no memory yet
    troubles.draw_some(service)
    troubles.refuse_some(service)
    troubles.cancel_one(service)
    troubles.take_storage_away(service)
    assert troubles.finish(service, killed) == ["succeeded"]
    troubles.lose_an_upload(service)
    troubles.draw_some(service)
    over = time.time()
    wait_for(lambda: prometheus.value("min(timestamp(up))") > over, 30, "a scrape of all that happened")


@pytest.mark.parametrize(("board", "panel"), TILES, ids=lambda each: each if isinstance(each, str) else each["title"])
def test_every_panel_has_data(prometheus: Prometheus, board: str, panel: dict[str, list[dict[str, str]]]) -> None:
    for target in panel["targets"]:
        expr = target["expr"].replace("$__rate_interval", prometheus.life()).replace("$model", ".*")
        values = [value for _, value in prometheus.query(expr) if not math.isnan(value)]
        assert values, f"{board}: {expr}"


@pytest.mark.parametrize(
    "expr",
    [
        'sum(increase(latentd_jobs_total{outcome="succeeded"}[$life]))',
        'sum(increase(latentd_jobs_total{outcome="failed"}[$life]))',
        'sum(increase(latentd_jobs_total{outcome="canceled"}[$life]))',
        'sum(increase(latentd_images_total{kind="upscale"}[$life]))',
        'sum(increase(latentd_retries_total{reason="worker_died"}[$life]))',
        "sum(increase(latentd_oom_total[$life]))",
        "sum(increase(latentd_storage_errors_total[$life]))",
        'sum(increase(latentd_rejected_total{reason="not-found"}[$life]))',
        'sum(latentd_http_requests_total{status="422"})',
        "sum(rate(latentd_unet_flops_total[$life])) / sum(latentd_gpu_peak_flops)",
        "sum(increase(latentd_jobs_accepted_total[$life]))",
        'sum(increase(latentd_jobs_unserved_total{outcome="canceled"}[$life]))',
        "min(latentd_workers)",
        "min(latentd_redis_up)",
    ],
)
def test_what_was_caused_is_counted(prometheus: Prometheus, expr: str) -> None:
    assert prometheus.value(expr.replace("$life", prometheus.life())) > 0


def test_the_autoscaler_gets_one_number_a_query(prometheus: Prometheus) -> None:
    scaled = documents(KUBERNETES / "overlays" / "autoscale" / "worker-scaling.yaml")[0]
    for trigger in scaled["spec"]["triggers"]:
        assert len(prometheus.query(trigger["metadata"]["query"])) == 1


def test_labels_stay_within_their_ceilings(service: Service, prometheus: Prometheus, gpu_port: int) -> None:  # noqa: ARG001
    found: Counter[str] = Counter()
    for port in (service.port, service.worker_metrics_port, gpu_port):
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):  # the client library's, one beside each counter
                continue
            ignored = ("le",)
            sets = {tuple((k, v) for k, v in sample.labels.items() if k not in ignored) for sample in family.samples}
            found[family.name] = max(found[family.name], len(sets))
            assert "red heart" not in str(sets)
    assert {name for name in found if name.startswith("latentd_")} == set(CEILINGS)
    over = {name: count for name, count in found.items() if count > CEILINGS.get(name, 1)}
    assert not over


def test_no_prompt_is_logged(service: Service, prometheus: Prometheus) -> None:  # noqa: ARG001
    assert "red heart" not in Path(service.log_path).read_text()
