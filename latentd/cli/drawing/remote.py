"""Drawing by a server: the same options, files and messages as here, and nothing loaded that draws."""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from latentd_client import Client, ClientError, Event, Job, JobFailed, Refused
from pydantic import SecretStr

from contract.uploads import control_name
from core.errors import LatentdError
from latentd.cli.console import plain
from latentd.cli.drawing.order import Order
from latentd.cli.drawing.outputs import Drawn, paths_for, progress_bar, warn, write

PATIENCE_S = 40.0  # a server that is started anew is away for less, and one whose Redis is silent says so within 15
REFUSED_S = 1.5  # a wrong address isn't waited for; a server that has answered is
HASTE_S = 2.0  # the same after Ctrl-C or SIGTERM
ANSWER_S = 5.0  # that an answer may take then: who sends SIGTERM sends SIGKILL soon
UNAUTHORIZED = 401


def draw(order: Order, server: str, api_key: SecretStr | None) -> None:
    """Let `server` draw an order, and write its files; Ctrl-C and SIGTERM cancel its job there.

    Raises:
        LatentdError: the server's problem, or what became of the job.
    """
    paths = paths_for(order.out, max(1, order.fields.get("num_images", 1)), force=order.force)
    fields = _fields(order)
    key = "" if api_key is None else api_key.get_secret_value()
    with (
        _ended_by_sigterm(),
        _told(order, server),
        Client(server, key, patience_s=PATIENCE_S, refused_s=REFUSED_S) as client,
    ):
        job: Job | None = None
        try:
            job = client.submit(order.kind, **fields)
            job = _followed(client, job)
        except (KeyboardInterrupt, SystemExit):
            _give_up(server, key, lambda hasty: job or hasty.submit(order.kind, **fields))
            raise
        if len(job.images) != len(paths):
            raise LatentdError(f"{server} answered {len(job.images)} images; {len(paths)} were asked for")
        images = (Drawn(client.image_file(each), each.width, each.height, each.seed) for each in job.images)
        write(images, paths, job.request, force=order.force, json=order.json)


def _fields(order: Order) -> dict[str, Any]:
    """Make the fields of a submission, with pictures and a key by which the job is found again."""
    files = order.read_files()
    controls: list[Mapping[str, Any]] = order.fields.get("controls", [])
    led = [{**control, "image": files.pop(control_name(number))} for number, control in enumerate(controls)]
    fields = {**order.fields, **files, "idempotency_key": str(uuid.uuid4())}
    return fields | {"controls": led} if led else fields


def _followed(client: Client, job: Job) -> Job:
    """Show a job's progress until it has succeeded."""
    warn(job.warnings)
    named = f"{job.kind} seed {job.request.get('seed', 'unknown')}"
    with progress_bar() as progress:
        bar = progress.add_task(f"{named} waits", total=job.steps)

        def on_event(event: Event) -> None:
            if event.type == "started":
                progress.update(bar, description=named)
            elif event.type == "step":
                progress.update(bar, completed=event.data["step"], total=event.data["steps"])

        return client.wait(job, on_event)


def _give_up(server: str, key: str, job_of: Callable[[Client], Job]) -> None:
    """Cancel the job and say so. An answer with its id may be on its way: the same submission makes no second job."""
    try:
        with Client(server, key, timeout_s=ANSWER_S, patience_s=HASTE_S) as client:
            job = client.cancel(job_of(client))
        told = "had ended" if job.status in ("succeeded", "failed") else "is canceled"
        said = f"job {job.id} {told}"
    except ClientError as error:
        said = f"{server}: {error}; the job, if there is one, goes on there"
    plain(stderr=True).print(said, soft_wrap=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM (of `timeout`, of a script that ends) raise SystemExit; by itself it leaves no time to cancel."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _told(order: Order, server: str) -> Iterator[None]:
    """Raises LatentdError for what the client raises."""
    try:
        yield
    except Refused as error:
        problem = error.problem
        detail = order.by_path(problem.field, problem.detail)
        detail += " (LATENTD_API_KEY is sent as the key)" if problem.status == UNAUTHORIZED else ""
        raise LatentdError(detail, field=problem.field, value=problem.value, bound=problem.bound) from error
    except JobFailed as error:
        raise LatentdError(str(error)) from error
    except ClientError as error:
        raise LatentdError(f"{server}: {error}") from error
