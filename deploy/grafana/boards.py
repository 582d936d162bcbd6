"""The four boards: GPU throughput, queues and latency, failures, capacity."""

from __future__ import annotations

from deploy.grafana.panel import Board, Panel, Query, quantile, rate

MODEL = 'model=~"$model"'
FAILED = f'{MODEL},outcome="failed"'
ROWS = rate("latentd_step_rows_sum", "instance, model")
CALLS = rate("latentd_step_rows_count", "instance, model")
LIMIT = f"max by (instance, model) (latentd_step_rows_limit{{{MODEL}}})"
QUICK = 'route!~"/v1/jobs/.*/events|static"'


def ended(by: str, where: str = MODEL) -> str:
    """Jobs ended a second: by workers, and without one as Redis counts them, which every gateway tells."""
    worked = f"rate(latentd_jobs_total{{{where}}}[$__rate_interval])"
    unserved = f"rate(latentd_jobs_unserved_total{{{where}}}[$__rate_interval])"
    return f"sum by ({by}) ({worked} or max by (kind, model, lane, outcome) ({unserved}))"


def one(expr: str, legend: str) -> tuple[Query, ...]:
    return (Query(expr, legend),)


GPU = Board(
    "latentd-gpu",
    "latentd: GPU throughput",
    "What the GPUs make, and how well they are used. One worker process serves one GPU.",
    (
        Panel(
            "Images per second",
            "Images stored, by worker.",
            one(rate("latentd_images_total", "instance"), "{{instance}}"),
            kind="stacked",
        ),
        Panel(
            "Denoising steps per second",
            "One step is one image advanced by one network call.",
            one(rate("latentd_denoising_steps_total", "instance"), "{{instance}}"),
            kind="stacked",
        ),
        Panel(
            "Rows per second",
            "Network evaluations; guidance needs two a step. Fillers are left out.",
            one(rate("latentd_step_rows_sum", "instance"), "{{instance}}"),
            kind="stacked",
        ),
        Panel(
            "Batch occupancy",
            "Rows of the mean UNet call, as a share of LATENTD_MAX_ROWS.",
            one(f"{ROWS} / {CALLS} / {LIMIT}", "{{instance}} {{model}}"),
            unit="percentunit",
            top=1,
        ),
        Panel(
            "Rows per UNet call",
            "How many calls have how many rows: step batching at work.",
            one(f"sum by (le) (increase(latentd_step_rows_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}"),
            kind="heatmap",
        ),
        Panel(
            "Seconds of a UNet call",
            "Median and 95th percentile.",
            (
                Query(quantile(0.5, "latentd_step_seconds", "model", MODEL), "{{model}} median"),
                Query(quantile(0.95, "latentd_step_seconds", "model", MODEL), "{{model}} p95"),
            ),
            unit="s",
        ),
        Panel(
            "Precision and path",
            "What each model's UNet computes in, and how: plain, packed (CPU in bfloat16) or captured (GPU).",
            one("sum by (model, dtype, path) (latentd_network_info)", "{{model}} {{dtype}} {{path}}"),
            kind="stacked",
        ),
        Panel(
            "Models in memory",
            "How many workers hold each model; they load others that they serve when a job asks.",
            one(f"sum by (model) (latentd_model_resident{{{MODEL}}})", "{{model}}"),
            kind="stacked",
        ),
        Panel(
            "Loads and evictions",
            "Models that came because a job asked, and that left for another: memory is short where it doesn't rest.",
            (
                Query(
                    f"sum by (model, outcome) (increase(latentd_model_loads_total{{{MODEL}}}[$__rate_interval]))",
                    "{{model}} load {{outcome}}",
                ),
                Query(
                    f"sum by (model) (increase(latentd_model_evictions_total{{{MODEL}}}[$__rate_interval]))",
                    "{{model}} eviction",
                ),
            ),
        ),
        Panel(
            "GPU utilisation",
            "Share of time with a kernel running, as NVML tells.",
            one("latentd_gpu_utilization_ratio", "{{instance}} GPU {{gpu}}"),
            unit="percentunit",
            top=1,
        ),
        Panel(
            "Model FLOP utilisation",
            "FLOPs of UNet calls against the card's dense peak in the dtype that is used.",
            one(
                "sum by (instance) (rate(latentd_unet_flops_total[$__rate_interval]))"
                " / sum by (instance) (latentd_gpu_peak_flops)",
                "{{instance}}",
            ),
            unit="percentunit",
        ),
        Panel(
            "UNet FLOP per second",
            "Without encoding and decoding.",
            one(rate("latentd_unet_flops_total", "instance"), "{{instance}}"),
            unit="flops",
            kind="stacked",
        ),
        Panel(
            "GPU memory",
            "In use by all processes, and what the card has.",
            (
                Query("latentd_gpu_memory_used_bytes", "{{instance}} GPU {{gpu}} used"),
                Query("latentd_gpu_memory_total_bytes", "{{instance}} GPU {{gpu}} total"),
            ),
            unit="bytes",
        ),
        Panel(
            "GPU power",
            "Watts drawn.",
            one("latentd_gpu_power_watts", "{{instance}} GPU {{gpu}}"),
            unit="watt",
        ),
        Panel(
            "Energy per image",
            "Joules: power over images per second.",
            one(
                "sum(latentd_gpu_power_watts) / sum(rate(latentd_images_total[$__rate_interval]))",
                "all GPUs",
            ),
            unit="joule",
        ),
    ),
)

QUEUES = Board(
    "latentd-queues",
    "latentd: queues and latency",
    "How long clients wait, and where.",
    (
        Panel(
            "Jobs waiting",
            "By lane; parked: no live worker can run them. Every gateway tells the same, so the largest value counts.",
            (
                Query(f"max by (model, lane) (latentd_queue_depth{{{MODEL}}})", "{{model}} {{lane}}"),
                Query(f"max by (model, lane) (latentd_jobs_parked{{{MODEL}}})", "{{model}} {{lane}} parked"),
            ),
            kind="stacked",
        ),
        Panel(
            "Age of the oldest waiting job",
            "The alert LatentdQueueOld reads this.",
            one(f"max by (model, lane) (latentd_queue_oldest_seconds{{{MODEL}}})", "{{model}} {{lane}}"),
            unit="s",
        ),
        Panel(
            "Requests per second",
            "By route template.",
            one("sum by (route) (rate(latentd_http_requests_total[$__rate_interval]))", "{{route}}"),
            unit="reqps",
            kind="stacked",
        ),
        Panel(
            "Seconds of an answer, 99th percentile",
            "Event streams are left out; `Prefer: wait` is included.",
            one(quantile(0.99, "latentd_http_request_seconds", "route", QUICK), "{{route}}"),
            unit="s",
        ),
        Panel(
            "Seconds of a job by stage, mean",
            "Encode prompts and pictures, denoise, decode, store.",
            one(
                f"{rate('latentd_stage_seconds_sum', 'stage')} / {rate('latentd_stage_seconds_count', 'stage')}",
                "{{stage}}",
            ),
            unit="s",
            kind="stacked",
        ),
        Panel(
            "Seconds of a job by stage, 95th percentile",
            "Of jobs that succeeded.",
            one(quantile(0.95, "latentd_stage_seconds", "stage", MODEL), "{{stage}}"),
            unit="s",
        ),
        Panel(
            "Jobs ended per second",
            "By lane.",
            one(ended("lane"), "{{lane}}"),
            kind="stacked",
        ),
        Panel(
            "Images in work",
            "Slots that workers hold.",
            one(f"sum by (instance, model) (latentd_slots_in_use{{{MODEL}}})", "{{instance}} {{model}}"),
            kind="stacked",
        ),
    ),
)

FAILURES = Board(
    "latentd-failures",
    "latentd: failures",
    "What went wrong, and whether it was us, the client or the machine.",
    (
        Panel(
            "Jobs ended per second, by outcome",
            "Each job ends once, by a worker or without one.",
            one(ended("outcome"), "{{outcome}}"),
            kind="stacked",
        ),
        Panel(
            "Share of jobs that failed",
            "The alert LatentdJobsFail reads this.",
            one(f"{ended('model', FAILED)} / {ended('model')}", "{{model}}"),
            unit="percentunit",
        ),
        Panel(
            "Requests refused, by reason",
            "The problem's slug: invalid requests, full queues, unknown ids.",
            one("sum by (reason) (rate(latentd_rejected_total[$__rate_interval])) > 0", "{{reason}}"),
            unit="reqps",
            kind="stacked",
        ),
        Panel(
            "Uploads in gateways' memory",
            "Bodies that requests hold in memory. Larger ones are refused (bodies-busy) beyond 512 MiB a gateway.",
            one("latentd_bodies_bytes", "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            "Answers that are errors",
            "4xx and 5xx by status.",
            one(
                'sum by (status) (rate(latentd_http_requests_total{status=~"[45].."}[$__rate_interval]))', "{{status}}"
            ),
            unit="reqps",
            kind="stacked",
        ),
        Panel(
            "Jobs queued again, by reason",
            "worker_died: found by another worker after their own was gone. handed_back: a stopping worker's.",
            one("max by (reason) (increase(latentd_retries_total[$__rate_interval]))", "{{reason}}"),
            kind="stacked",
        ),
        Panel(
            "Calls that ran out of memory",
            "Each is split and tried again; the ceiling learned is kept.",
            one(f"sum by (model) (increase(latentd_oom_total{{{MODEL}}}[$__rate_interval]))", "{{model}}"),
        ),
        Panel(
            "Tries that storage did not answer",
            "Repeated with growing pauses; no job fails of it.",
            one("sum by (instance) (increase(latentd_storage_errors_total[$__rate_interval]))", "{{instance}}"),
        ),
        Panel(
            "Jobs that no worker ended",
            "Late or cancelled while they waited, or quarantined. By outcome.",
            one(
                "sum by (outcome) (max by (kind, model, lane, outcome)"
                f" (increase(latentd_jobs_unserved_total{{{MODEL}}}[$__rate_interval])))",
                "{{outcome}}",
            ),
            kind="stacked",
        ),
        Panel(
            "Processes that answer Prometheus, gateways that Redis answers",
            "1 up, 0 down.",
            (
                Query('up{job=~"latentd-.*"}', "{{job}} {{instance}}"),
                Query("latentd_redis_up", "Redis for {{instance}}"),
            ),
            top=1,
        ),
        Panel(
            "Clocks, and Redis's memory",
            "Seconds by which a machine's clock is ahead of Redis's; the share of its maxmemory that Redis uses (0: no "
            "bound); 1 for a Redis that removes keys when that is full.",
            (
                Query("latentd_clock_ahead_seconds", "{{job}} {{instance}}"),
                Query("max(latentd_redis_memory_ratio)", "Redis's memory"),
                Query("max(latentd_redis_may_evict)", "Redis may evict"),
            ),
            bottom=None,  # a clock may be behind
        ),
    ),
)

CAPACITY = Board(
    "latentd-capacity",
    "latentd: capacity",
    "Whether there are enough GPUs, and what one more would bring.",
    (
        Panel(
            "Live workers",
            "By model that they serve.",
            one(f"max by (model) (latentd_workers{{{MODEL}}})", "{{model}}"),
            kind="number",
        ),
        Panel(
            "Jobs waiting per live worker",
            "Grows without end: add workers.",
            one(
                f"sum by (model) (max by (model, lane) (latentd_queue_depth{{{MODEL}}}))"
                f" / max by (model) (latentd_workers{{{MODEL}}})",
                "{{model}}",
            ),
            kind="number",
        ),
        Panel(
            "Demand and throughput",
            "Jobs accepted and jobs ended, a second. They part when the queue grows.",
            (
                Query(rate("latentd_jobs_accepted_total", "model"), "{{model}} accepted"),
                Query(ended("model"), "{{model}} ended"),
            ),
        ),
        Panel(
            "Time in UNet calls",
            "Share of each worker's time; the rest is encoding, decoding and waiting for work.",
            one(rate("latentd_step_seconds_sum", "instance"), "{{instance}}"),
            unit="percentunit",
            top=1,
        ),
        Panel(
            "Load",
            "Time in UNet calls × batch occupancy: near 1 nothing is left.",
            one(
                "sum by (instance) ("
                f"{rate('latentd_step_seconds_sum', 'instance, model')} * {ROWS} / ({CALLS} > 0) / {LIMIT})",
                "{{instance}}",
            ),
            unit="percentunit",
            top=1,
        ),
        Panel(
            "Device-seconds per image",
            "Of UNet calls, shared by the images in them.",
            one(f"{rate('latentd_step_seconds_sum', 'model')} / {rate('latentd_images_total', 'model')}", "{{model}}"),
            unit="s",
        ),
        Panel(
            "Milliseconds per row",
            "Falls while calls grow, until the GPU is full.",
            one(
                f"1000 * {rate('latentd_step_seconds_sum', 'model')} / {rate('latentd_step_rows_sum', 'model')}",
                "{{model}}",
            ),
            unit="ms",
        ),
        Panel(
            "Free GPU memory",
            "Share of the card's memory.",
            one("1 - latentd_gpu_memory_used_bytes / latentd_gpu_memory_total_bytes", "{{instance}} GPU {{gpu}}"),
            unit="percentunit",
            top=1,
        ),
    ),
)

BOARDS = (GPU, QUEUES, FAILURES, CAPACITY)
