"""The worker's Prometheus families; labels are bounded: models, kinds, lanes, outcomes, stages, GPUs."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from contract.base import LANES, Kind
from contract.job import Status
from core.clock import AHEAD, AHEAD_MEANS, CLOCK
from jobs.run import JobRun
from models.networks.unet import UNetConfig
from workers.engine.messages import Called
from workers.metrics.flops import Described, RowFlops, control_flops, row_flops
from workers.metrics.gpu import Gpu, GpuCollector
from workers.metrics.paths import PathCollector

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64)
STAGES = ("encode", "denoise", "decode", "store")
LOADED = ("succeeded", "failed")
OUTCOMES: tuple[Status, ...] = ("succeeded", "failed", "canceled")
THREADS = 4  # that answer scrapes
SILENT_S = 5.0  # that one waits for a client
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class _Quiet(WSGIRequestHandler):
    """Logs no scrapes."""

    timeout = SILENT_S

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(WSGIServer):
    """Serves a registry on a socket that listens already, which other servers may share: one request at a time."""

    def __init__(self, listening: socket.socket, registry: CollectorRegistry) -> None:
        host, port = listening.getsockname()[:2]
        super().__init__((host, port), _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = host, port
        self.setup_environ()
        self.set_app(make_wsgi_app(registry))
        self.socket.setblocking(False)  # who was late for a request goes on waiting for the next

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is slow or gone is no fault of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class WorkerMetrics:
    """One registry a worker; every family is visible from the start."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.registry = CollectorRegistry()
        self._begin_jobs(self.registry)
        self._begin_calls(self.registry)
        self._begin_models(self.registry)
        self.storage_errors = Counter(
            "latentd_storage_errors", "Tries that storage did not answer; they are repeated.", registry=self.registry
        )
        Gauge(AHEAD, AHEAD_MEANS, registry=self.registry).set_function(CLOCK.own_ahead_s)
        self.paths = PathCollector()
        self.registry.register(GpuCollector(gpu))
        self.registry.register(self.paths)
        self._row_flops: dict[str, RowFlops] = {}
        self._control_flops: dict[str, RowFlops] = {}
        self._told: dict[str, tuple[UNetConfig, int]] = {}  # a model's network, and the tokens that it reads

    def _begin_jobs(self, registry: CollectorRegistry) -> None:
        job = ("kind", "model", "lane", "outcome")
        self.jobs = Counter("latentd_jobs", "Jobs that ended here.", job, registry=registry)
        self.images = Counter("latentd_images", "Images stored.", ("kind", "model"), registry=registry)
        self.slots = Gauge("latentd_slots_in_use", "Images in work.", ("model",), registry=registry)
        self.stages = Histogram(
            "latentd_stage_seconds",
            "Seconds of a job in a stage: encode, denoise, decode, store.",
            ("stage", "model"),
            buckets=SECONDS,
            registry=registry,
        )

    def _begin_calls(self, registry: CollectorRegistry) -> None:
        self.steps = Counter(
            "latentd_denoising_steps", "Denoising steps, one per image and network call.", ("model",), registry=registry
        )
        self.rows = Histogram(
            "latentd_step_rows", "Rows of a UNet call, fillers left out.", ("model",), buckets=ROWS, registry=registry
        )
        self.rows_limit = Gauge(
            "latentd_step_rows_limit", "Most rows that a UNet call may have.", ("model",), registry=registry
        )
        self.step_seconds = Histogram(
            "latentd_step_seconds", "Duration of a UNet call.", ("model",), buckets=SECONDS, registry=registry
        )
        self.flops = Counter(
            "latentd_unet_flops", "FLOPs of UNet calls, fillers left out.", ("model",), registry=registry
        )
        self.out_of_memory = Counter(
            "latentd_oom", "Batches that did not fit in memory.", ("model",), registry=registry
        )

    def _begin_models(self, registry: CollectorRegistry) -> None:
        self.resident = Gauge(
            "latentd_model_resident",
            "1: the model is in this worker's memory; 0: it is loaded when a job asks for it.",
            ("model",),
            registry=registry,
        )
        self.loads = Counter(
            "latentd_model_loads",
            "Loads of models that jobs asked for, after the worker's start.",
            ("model", "outcome"),
            registry=registry,
        )
        self.evictions = Counter(
            "latentd_model_evictions", "Models that left memory for another.", ("model",), registry=registry
        )

    def serves(self, models: Mapping[str, tuple[Kind, ...]], max_rows: int) -> None:
        """Begin the series of this worker's models, and of the kinds that each draws, at 0: a first one counts."""
        for model, kinds in models.items():
            self.rows_limit.labels(model).set(max_rows)
            for family in (self.steps, self.rows, self.step_seconds, self.slots, self.out_of_memory, self.flops):
                family.labels(model)
            self.resident.labels(model)
            self.evictions.labels(model)
            for outcome in LOADED:
                self.loads.labels(model, outcome)
            for stage in STAGES:
                self.stages.labels(stage, model)
            for kind in kinds:
                self._expect(kind, model)

    def came(self, model: str, network: Described) -> None:
        """Note that a model is in memory; what a row of it costs is counted the first time."""
        self.resident.labels(model).set(1)
        if model not in self._row_flops:
            self._row_flops[model] = row_flops(network)
            self._told[model] = network.config.unet, network.token_window or 1

    def left(self, model: str) -> None:
        """Note that a model isn't in memory any more."""
        self.resident.labels(model).set(0)
        self.evictions.labels(model).inc()

    def withdrawn(self, model: str) -> None:
        """Note that a model isn't offered any more, whatever waits for it."""
        self.rows_limit.remove(model)

    def _expect(self, kind: Kind, model: str) -> None:
        self.images.labels(kind, model)
        for lane in LANES:
            for outcome in OUTCOMES:
                self.jobs.labels(kind, model, lane, outcome)

    def called(self, call: Called) -> None:
        """Count one UNet call."""
        self.rows.labels(call.model).observe(call.rows)
        self.step_seconds.labels(call.model).observe(call.seconds)
        self.steps.labels(call.model).inc(call.slots)
        if call.model in self._row_flops:
            self.flops.labels(call.model).inc(call.rows * self._row_flops[call.model](call.shape))
            self.flops.labels(call.model).inc(self._of_controls(call))

    def _of_controls(self, call: Called) -> float:
        """Count the ControlNets' part, which no call has before a job names one."""
        if not call.control_rows:
            return 0.0
        if call.model not in self._control_flops:
            self._control_flops[call.model] = control_flops(*self._told[call.model])
        return call.control_rows * self._control_flops[call.model](call.shape)

    def ended(self, run: JobRun, status: Status) -> None:
        """Note that a job ended; `queued`: it was handed back."""
        if status == "queued":
            return
        self.jobs.labels(run.request.kind, run.model, run.lane, status).inc()
        if status == "succeeded":
            for stage, seconds in (("denoise", run.denoise_s), ("decode", run.decode_s), ("store", run.store_s)):
                self.stages.labels(stage, run.model).observe(seconds)

    def serve(self, listening: socket.socket) -> int:
        """Answer /metrics on a socket that listens; its port, which the system chose if 0 was asked for."""
        self._servers = [_Server(listening, self.registry) for _ in range(THREADS)]
        # Made now: a thread made while memory is short may never begin, and its maker then waits for it for ever.
        self._threads = [Thread(target=server.serve_forever, name="metrics", daemon=True) for server in self._servers]
        for thread in self._threads:
            thread.start()
        return self._servers[0].server_port

    def close(self) -> None:
        """End what `serve` began."""
        for server in self._servers:
            server.shutdown()
        for thread in self._threads:
            thread.join()
        self._servers[0].server_close()
