"""Step-time tables and mixes for tests of the planner."""

from __future__ import annotations

from typing import Any

from contract.measurements import ShapeTimes, StepTimes
from workers.planner.costs import Costs, price
from workers.planner.mix import JobClass
from workers.planner.simulation import RedisLimits

NO_LIMITS = RedisLimits(polls_per_s=1e12, jobs_per_s=1e12, steps_per_s=1e12, workers=1e12)


def make_table(**changes: Any) -> StepTimes:
    """A GPU on which 16 rows cost twice what one does."""
    times = ShapeTimes(
        shape=(4, 32, 32),
        calls={1: 0.02, 2: 0.02, 4: 0.022, 8: 0.028, 16: 0.04},
        encode_s={"txt2img": 0.01, "img2img": 0.01},
        decode_s=0.012,
    )
    values: dict[str, Any] = {"model": "m", "latent_factor": 8, "shapes": (times,), "store_s": 0.02}
    return StepTimes.model_validate(values | {"round_s": 0.001, "move_s": 0.002} | changes)


def make_class(**changes: Any) -> JobClass:
    values: dict[str, Any] = {"kind": "txt2img", "model": "m", "width": 256, "height": 256, "steps": 10}
    return JobClass.model_validate(values | {"guidance_scale": 4.0} | changes)


def make_costs(*mix: JobClass, **changes: Any) -> Costs:
    return price(mix or (make_class(),), {"m": make_table(**changes)})
