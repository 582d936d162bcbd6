"""What a soak does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Jobs of a tiny model against workers that are killed every few seconds."""

    jobs: int  # at least: more, until all kills were made
    workers: int
    kills: int  # of workers, at least where `endless`
    endless: bool  # whether kills go on to the end
    redis_kills: int
    rows: int  # of a call, which bounds what one worker holds
    outstanding: int  # jobs that wait or run at a time
    length_s: tuple[float, float]  # bounds of a job's length, from which its steps follow by a measurement
    every_s: tuple[float, float]  # bounds of the pause between two kills
    strict_every: int  # of so many jobs one is strict
    twins: int  # strict jobs that were resumed, compared with unbroken runs
    forked: bool = False  # whether workers start behind their imports, which saves time and shows no starts
    seed: int = 20
    limit_s: float = 3600.0

    @property
    def redis_kills_at(self) -> list[int]:
        """After how many ended jobs Redis is killed: evenly over the run."""
        return [self.jobs * (k + 1) // (self.redis_kills + 1) for k in range(self.redis_kills)]


FULL = Plan(
    jobs=500,
    workers=3,
    kills=50,
    endless=True,
    redis_kills=2,
    rows=4,
    outstanding=12,
    length_s=(5.0, 20.0),
    every_s=(5.0, 12.0),
    strict_every=4,
    twins=20,
)
SHORT = Plan(
    jobs=32,
    workers=2,
    kills=4,
    endless=False,
    redis_kills=1,
    rows=4,
    outstanding=8,
    length_s=(10.0, 14.0),
    every_s=(5.0, 7.0),
    strict_every=2,  # some seven jobs are broken, of which one strict one must be
    twins=1,
    forked=True,
    limit_s=150.0,
)
