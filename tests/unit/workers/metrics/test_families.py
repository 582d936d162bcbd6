from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from core.listen import listen
from models.pipeline.captured import CapturedCalls
from models.pipeline.fused import FusedNetwork
from tests.engines import tiny_models
from workers.engine.messages import Called
from workers.metrics.families import SILENT_S, THREADS, WorkerMetrics
from workers.metrics.flops import row_flops

FAMILIES = {
    "latentd_jobs_total": "counter",
    "latentd_images_total": "counter",
    "latentd_denoising_steps_total": "counter",
    "latentd_step_rows": "histogram",
    "latentd_step_seconds": "histogram",
    "latentd_stage_seconds": "histogram",
    "latentd_slots_in_use": "gauge",
    "latentd_oom_total": "counter",
    "latentd_step_rows_limit": "gauge",
    "latentd_unet_flops_total": "counter",
    "latentd_storage_errors_total": "counter",
    "latentd_gpu_utilization_ratio": "gauge",
    "latentd_gpu_memory_used_bytes": "gauge",
    "latentd_gpu_memory_total_bytes": "gauge",
    "latentd_gpu_power_watts": "gauge",
    "latentd_gpu_peak_flops": "gauge",
    "latentd_network_info": "gauge",
    "latentd_model_resident": "gauge",
    "latentd_model_loads_total": "counter",
    "latentd_model_evictions_total": "counter",
}


def test_every_family_is_visible_from_the_start() -> None:
    text = generate_latest(WorkerMetrics().registry).decode()
    for name, kind in FAMILIES.items():
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} {kind}\n" in text


def test_how_networks_are_computed_is_told_as_it_is_now() -> None:
    metrics, model = WorkerMetrics(), tiny_models()["paint"]

    def told(path: str) -> float | None:
        labels = {"model": "paint", "dtype": "float32", "path": path}
        return metrics.registry.get_sample_value("latentd_network_info", labels)

    metrics.paths.models = {"paint": model}
    assert told("plain") == 1
    calls = CapturedCalls(model.unet, lambda _: None)
    metrics.paths.models = {"paint": replace(model, denoiser=replace(model.denoiser, captured=calls))}
    assert (told("captured"), told("plain")) == (1, None)
    calls.fused = FusedNetwork(model.unet, lambda _: None)
    assert (told("fused"), told("captured")) == (None, 1)
    calls.fused._ready.add(("a shape",))
    assert (told("fused"), told("captured")) == (1, None)
    calls.fused = None
    calls.broken = True
    assert (told("captured"), told("plain")) == (None, 1)


def test_rows_leave_fillers_out_and_steps_count_images() -> None:
    metrics = WorkerMetrics()
    metrics.called(Called("tiny", 3, 4, True, 0.02, 2, (4, 8, 8)))
    value = metrics.registry.get_sample_value
    assert value("latentd_step_rows_bucket", {"model": "tiny", "le": "2.0"}) == 0
    assert value("latentd_step_rows_bucket", {"model": "tiny", "le": "4.0"}) == 1
    assert value("latentd_step_rows_sum", {"model": "tiny"}) == 3
    assert value("latentd_denoising_steps_total", {"model": "tiny"}) == 2


def test_series_of_served_models_begin_at_zero() -> None:
    metrics = WorkerMetrics()
    metrics.serves({"paint": ("txt2img", "inpaint")}, 16)
    value = metrics.registry.get_sample_value
    job = {"kind": "inpaint", "model": "paint", "lane": "bulk", "outcome": "failed"}
    assert value("latentd_jobs_total", job) == 0
    assert value("latentd_oom_total", {"model": "paint"}) == 0
    assert value("latentd_step_rows_limit", {"model": "paint"}) == 16
    assert value("latentd_model_resident", {"model": "paint"}) == 0
    assert value("latentd_model_loads_total", {"model": "paint", "outcome": "failed"}) == 0
    metrics.withdrawn("paint")
    assert value("latentd_step_rows_limit", {"model": "paint"}) is None  # alerts take it for one that is served


def test_flops_are_counted_of_models_that_came() -> None:
    metrics, model = WorkerMetrics(), tiny_models()["paint"]
    value = metrics.registry.get_sample_value
    metrics.came("paint", model)
    assert value("latentd_model_resident", {"model": "paint"}) == 1
    metrics.called(Called("paint", 3, 4, True, 0.02, 2, (4, 8, 8)))
    assert value("latentd_unet_flops_total", {"model": "paint"}) == 3 * row_flops(model)((4, 8, 8))
    metrics.left("paint")
    assert value("latentd_model_resident", {"model": "paint"}) == 0
    assert value("latentd_model_evictions_total", {"model": "paint"}) == 1


def test_metrics_are_served_on_loopback() -> None:
    metrics = WorkerMetrics()
    port = metrics.serve(listen("127.0.0.1", 0, "LATENTD_METRICS_PORT"))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"latentd_step_rows" in answer.read()
    finally:
        metrics.close()


def test_clients_that_say_nothing_hold_up_no_scrape() -> None:
    metrics = WorkerMetrics()
    port = metrics.serve(listen("127.0.0.1", 0, "LATENTD_METRICS_PORT"))
    try:
        with ExitStack() as silent:
            for _ in range(THREADS - 1):
                silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(3):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SILENT_S / 2) as answer:
                    assert b"latentd_step_rows" in answer.read()
    finally:
        metrics.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_is_ipv4_s_too() -> None:
    metrics = WorkerMetrics()
    port = metrics.serve(listen("::", 0, "LATENTD_METRICS_PORT"))
    try:
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
                assert b"latentd_step_rows" in answer.read()
    finally:
        metrics.close()
