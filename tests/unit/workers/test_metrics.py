from __future__ import annotations

import urllib.request

from prometheus_client import generate_latest

from workers.metrics import WorkerMetrics
from workers.tasks import Called

FAMILIES = {
    "latentd_jobs_total": "counter",
    "latentd_images_total": "counter",
    "latentd_denoising_steps_total": "counter",
    "latentd_step_rows": "histogram",
    "latentd_step_seconds": "histogram",
    "latentd_stage_seconds": "histogram",
    "latentd_slots_in_use": "gauge",
    "latentd_retries_total": "counter",
    "latentd_oom_total": "counter",
    "latentd_gpu_utilization_ratio": "gauge",
    "latentd_gpu_memory_used_bytes": "gauge",
    "latentd_gpu_power_watts": "gauge",
}


def test_every_family_is_visible_from_the_start() -> None:
    text = generate_latest(WorkerMetrics().registry).decode()
    for name, kind in FAMILIES.items():
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} {kind}\n" in text


def test_rows_leave_fillers_out_and_steps_count_images() -> None:
    metrics = WorkerMetrics()
    metrics.called(Called("tiny", 3, 4, True, 0.02, 2, (4, 8, 8)))
    value = metrics.registry.get_sample_value
    assert value("latentd_step_rows_bucket", {"model": "tiny", "le": "2.0"}) == 0
    assert value("latentd_step_rows_bucket", {"model": "tiny", "le": "4.0"}) == 1
    assert value("latentd_step_rows_sum", {"model": "tiny"}) == 3
    assert value("latentd_denoising_steps_total", {"model": "tiny"}) == 2


def test_metrics_are_served_on_loopback() -> None:
    metrics = WorkerMetrics()
    port = metrics.serve(0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"latentd_step_rows" in answer.read()
    finally:
        metrics.close()
