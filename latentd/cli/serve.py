"""Commands that run the service: up, gateway, worker."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import structlog
import typer

from core import logs
from core.settings import Settings, read_settings
from latentd.cli.ending import logged

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: LATENTD_HOST.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on. Default: LATENTD_PORT.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Let others in (another address than loopback, a public URL) while no key exists."),
]
Model = Annotated[
    list[str] | None,
    typer.Option(help="Checkpoint to serve; repeatable. Default: every installed one, LATENTD_MODEL first."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")]
MetricsPort = Annotated[int | None, typer.Option(help="Serve Prometheus metrics on this port.")]


def settings_with(**changes: object) -> Settings:
    """Settings of the environment, with the options given on the command line on top; logging configured.

    Raises:
        ConfigurationError: one is wrong.
    """
    settings = read_settings(**{name: value for name, value in changes.items() if value is not None})
    logs.configure(settings.log_level)
    return settings


def _end_at_once() -> None:
    """Let SIGINT and SIGTERM end the process well until somebody handles them: it holds nothing yet, and the kernel
    drops what the first process of a container doesn't handle. Uvicorn raises a signal again, for here, at its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))


def up(host: Host = None, port: Port = None, insecure: Insecure = False) -> None:
    """Start everything: Redis, a worker per GPU that torch sees (or one on the CPU), the gateway with its page."""
    _end_at_once()
    from latentd.supervisor import run

    settings = settings_with(host=host, port=port)
    run(settings, insecure)


def gateway(
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    insecure: Insecure = False,
) -> None:
    """Serve HTTP: validate requests, enqueue them, answer jobs, events and images."""
    _end_at_once()
    from service.app import serve

    settings = settings_with(host=host, port=port, metrics_port=metrics_port)
    serve(settings, insecure=insecure)


def worker(model: Model = None, device: Device = "auto", metrics_port: MetricsPort = None) -> None:
    """Load checkpoints and work on the queue until stopped; a first SIGTERM drains, a second hands back at once."""
    from workers.signals import Signals

    signals = Signals()
    try:
        from workers.worker import serve

        if signals.told:
            raise SystemExit(0)
        serve(settings_with(metrics_port=metrics_port), model or [], device, signals)
    except (SystemExit, Exception):
        if not signals.told:
            raise
        if not structlog.is_configured():
            logs.configure("info")
        structlog.get_logger().info("stopped before it was ready")  # which the signal's handler can't
        os._exit(0)  # an import under way on another thread is neither waited for nor told of


def register(app: typer.Typer) -> None:
    for command in (up, gateway, worker):
        app.command()(logged(command))
