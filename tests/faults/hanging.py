"""A worker whose device stops answering in the middle of a call, as a driver that lost its GPU does."""

from __future__ import annotations

import threading

from core import logs
from core.settings import Settings
from workers import worker
from workers.engine.engine import Engine
from workers.engine.messages import Outcome
from workers.library import loading
from workers.library.library import ModelLibrary
from workers.signals import Signals


class Hanging(Engine):
    """Some turns, then one without an end."""

    turns = 3

    def turn(self) -> list[Outcome]:
        self.turns -= 1
        if self.turns < 0:
            threading.Event().wait()
        return super().turn()


def hanging_of(settings: Settings, library: ModelLibrary) -> Engine:
    engine = loading.engine_of(settings, library)
    engine.__class__ = Hanging
    return engine


def run(settings: Settings) -> None:
    """Serve the tiny model until the device hangs."""
    worker.engine_of = hanging_of  # type: ignore[attr-defined]
    logs.configure("critical")
    worker.serve(settings, ["tiny"], "cpu", Signals())


if __name__ == "__main__":
    run(Settings())
