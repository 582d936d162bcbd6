"""latentd as a newer release may be: every message that it writes has fields that this one doesn't know.

`python -m tests.integration.newer worker|gateway …` runs its commands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from contract.base import Wire
from core.errors import Problem
from latentd.cli import main

UNKNOWN = "of_a_newer_release"


def extended(value: Any) -> Any:
    """Add an unknown field to each object in it."""
    if isinstance(value, dict):
        return {name: extended(each) for name, each in value.items()} | {UNKNOWN: {"of": 1}}
    return [extended(each) for each in value] if isinstance(value, list) else value


def extending(call: Callable[..., str]) -> Callable[..., str]:
    """Wrap what makes JSON."""
    return lambda *given, **named: json.dumps(extended(json.loads(call(*given, **named))))


def run() -> None:
    """Run a command of the newer release."""
    Wire.to_json = extending(Wire.to_json)  # type: ignore[method-assign]
    Problem.model_dump_json = extending(Problem.model_dump_json)  # type: ignore[method-assign]
    main()


if __name__ == "__main__":
    run()
