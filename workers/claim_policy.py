"""Rules by which a worker shares out its work, without torch or Redis: the worker obeys them, the planner simulates."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from contract.base import BULK_FIRST_EVERY, LANES, Lane

CLAIMS_A_ROUND = 4  # the others wait for the next round, not the running jobs for the claims
LOOKS_A_CLAIM = 4  # … nor for jobs that only other workers can run
IDLE_S = 0.02  # how long a worker waits for its storing threads before it looks for jobs again
REST_S = 0.5  # how long one without jobs waits to be woken before it looks
STORING_THREADS = 2
COLD_FIRST_EVERY = 10  # claims: models that aren't in memory aren't starved by jobs of those that are
LOAD_SHARE = 5  # a busy worker spends at most one in so many seconds on changing its models …
LEAST_PAUSE_S = 5.0  # … nor changes them more often, as each change empties calls

ModelLane: TypeAlias = tuple[str, Lane]


def load_pause(seconds: float) -> float:
    """Return how long after a load of `seconds` a busy worker stays with the models that it has."""
    return max(LEAST_PAUSE_S, (LOAD_SHARE - 1) * seconds)


@dataclass(slots=True)
class ClaimOrder:
    """Which lane of which model is asked first: interactive before bulk, but every fifth claim; models in turn."""

    models: list[str]
    count: int = 0

    def of(self, lanes: Collection[ModelLane], cold: Collection[str] = ()) -> list[ModelLane]:
        """Put these lanes of models into the order in which they are asked; the `cold` ones have to be loaded first."""
        bulk_first = self.count % BULK_FIRST_EVERY == BULK_FIRST_EVERY - 1
        cold_first = self.count % COLD_FIRST_EVERY == COLD_FIRST_EVERY // 2  # not where bulk is first
        order = LANES[::-1] if bulk_first else LANES
        asked = [(model, lane) for lane in order for model in self.models if (model, lane) in lanes]
        return sorted(asked, key=lambda each: (each[0] in cold) is not cold_first)

    def took(self, model: str) -> None:
        """Note that a job of `model` was claimed."""
        self.count += 1
        self.models.append(self.models.pop(self.models.index(model)))
