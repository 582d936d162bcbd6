"""The worker's Prometheus families; labels are bounded: models, kinds, lanes, outcomes, stages, GPUs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from service.contract import Status
from workers.held import Held
from workers.tasks import Called

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class WorkerMetrics:
    """One registry a worker; every family is visible from the start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        job = ("kind", "model", "lane", "outcome")
        self.jobs = Counter("latentd_jobs", "Jobs that ended here.", job, registry=registry)
        self.images = Counter("latentd_images", "Images stored.", ("kind", "model"), registry=registry)
        self.steps = Counter(
            "latentd_denoising_steps", "Denoising steps, one per image and network call.", ("model",), registry=registry
        )
        self.rows = Histogram(
            "latentd_step_rows", "Rows of a UNet call, fillers left out.", ("model",), buckets=ROWS, registry=registry
        )
        self.step_seconds = Histogram(
            "latentd_step_seconds", "Duration of a UNet call.", ("model",), buckets=SECONDS, registry=registry
        )
        self.stages = Histogram(
            "latentd_stage_seconds",
            "Seconds of a job in a stage: encode, denoise, decode, store.",
            ("stage", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self.slots = Gauge("latentd_slots_in_use", "Images in work.", ("model",), registry=registry)
        self.retries = Counter("latentd_retries", "Jobs queued again.", ("reason",), registry=registry)
        self.out_of_memory = Counter(
            "latentd_oom", "Batches that did not fit in memory.", ("model",), registry=registry
        )
        Gauge("latentd_gpu_utilization_ratio", "Share of time that a GPU computed.", ("gpu",), registry=registry)
        Gauge("latentd_gpu_memory_used_bytes", "Memory of a GPU in use.", ("gpu",), registry=registry)
        Gauge("latentd_gpu_power_watts", "Power that a GPU draws.", ("gpu",), registry=registry)

    def called(self, call: Called) -> None:
        """One UNet call."""
        self.rows.labels(call.model).observe(call.rows)
        self.step_seconds.labels(call.model).observe(call.seconds)
        self.steps.labels(call.model).inc(call.slots)

    def ended(self, held: Held, status: Status) -> None:
        """A job ended; `queued`: it was handed back."""
        if status == "queued":
            self.retries.labels("handed_back").inc()
            return
        self.jobs.labels(held.request.kind, held.model, held.lane, status).inc()
        if status == "succeeded":
            for stage, seconds in (("denoise", held.denoise_s), ("decode", held.decode_s), ("store", held.store_s)):
                self.stages.labels(stage, held.model).observe(seconds)

    def serve(self, port: int) -> int:
        """Answer /metrics on loopback; the port, which the system chose if it was 0."""
        self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return self._server.server_port

    def close(self) -> None:
        """End what `serve` began."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
