"""A worker whose device stops answering in the middle of a call, as a driver that lost its GPU does."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from core import logs
from core.settings import Settings
from workers import loading, worker
from workers.engine.engine import Engine
from workers.engine.messages import Outcome
from workers.signals import Signals


class Hanging(Engine):
    """Some turns, then one without an end."""

    turns = 3

    def turn(self) -> list[Outcome]:
        self.turns -= 1
        if self.turns < 0:
            threading.Event().wait()
        return super().turn()


def load_hanging(settings: Settings, model_ids: Sequence[str], device: str) -> Engine:
    engine = loading.load_engine(settings, model_ids, device)
    engine.__class__ = Hanging
    return engine


def run(settings: Settings) -> None:
    """Serve the tiny model until the device hangs."""
    worker.load_engine = load_hanging  # type: ignore[attr-defined]
    logs.configure("critical")
    worker.serve(settings, ["tiny"], "cpu", Signals())


if __name__ == "__main__":
    run(Settings())
