"""A worker that kills itself at a named point of the protocol, as `kill -9` would.

Only tests know these points: the worker's own functions are wrapped in the process that is to die.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from core import logs
from core.settings import Settings
from jobs.end import Publisher
from workers.engine.engine import Engine
from workers.objects.storing import Storing
from workers.queue.claims import Claims
from workers.queue.savepoints import Savepoints
from workers.runs import saving
from workers.signals import Signals
from workers.worker import serve

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    """Die instead of the call."""

    def dies(*_: Any, **__: Any) -> None:
        die()

    dies.__name__ = call.__name__
    return dies


def behind(number: int) -> Wrapper:
    """Die when the call has returned something for the `number`th time."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        count = 0

        def dies(*given: Any, **named: Any) -> Any:
            nonlocal count
            done = call(*given, **named)
            count += bool(done)
            if count == number:
                die()
            return done

        return dies

    return wrap


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    """Die when the call has returned."""

    def dies(*given: Any, **named: Any) -> None:
        call(*given, **named)
        die()

    return dies


# Point → class, method and how it is wrapped.
POINTS: dict[str, tuple[type, str, Wrapper]] = {
    "claim: popped": (Claims, "_take", before),
    "claim: started": (Claims, "_take", after),
    "step: the first": (Engine, "turn", behind(2)),
    "step: in the middle": (Engine, "turn", behind(30)),
    "savepoint: written": (Savepoints, "_keep", after),
    "decode": (Engine, "_decode", before),
    "store: before": (Storing, "_put", before),
    "store: after": (Storing, "_put", after),
    "publish: before": (Publisher, "end_all", before),
    "publish: after": (Publisher, "end_all", after),
}


def run(point: str, settings: Settings) -> None:
    """Serve the tiny model until the point is reached."""
    owner, method, wrap = POINTS[point]
    setattr(owner, method, wrap(getattr(owner, method)))
    saving.FIRST_SAVE_S = 0.05  # on a fast machine the whole job takes less than half a second
    logs.configure("error")
    serve(settings, ["tiny"], "cpu", Signals())
