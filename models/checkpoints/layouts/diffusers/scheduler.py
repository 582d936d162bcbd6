"""scheduler_config.json: the noise schedule, the sampler and the noise levels that its class and options stand for, and
what of it isn't followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import CheckpointError
from models.schedule import ScheduleConfig

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "plms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_a",
    "LMSDiscreteScheduler": "lms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
# Of the stochastic multistep solver, by its order.
STOCHASTIC = {2: "dpmpp_2m_sde", 3: "dpmpp_3m_sde_diffusers"}
LEVELS = {"use_karras_sigmas": "diffusers_karras", "use_exponential_sigmas": "diffusers_exponential"}
ETA = {"TCDScheduler": 0.3}  # of its step, where nobody says another
# What our samplers do; other values of these options are told, for their pictures differ.
FOLLOWED: Mapping[str, Any] = {
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": None,
    "euler_at_final": False,
    "variance_type": None,
    "final_sigmas_type": None,
    "timestep_type": "discrete",
    "interpolation_type": "linear",
    "lower_order_final": True,
    "lambda_min_clipped": -math.inf,
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
ALSO: Mapping[str, tuple[Any, ...]] = {
    "solver_type": ("midpoint", "bh2"),
    "variance_type": ("fixed_small", "fixed_small_log"),
    "final_sigmas_type": ("zero",),
}
# Pipelines that, as they load a folder, set steps_offset to 1 and clip_sample to false: files older than these options.
OFFSETTING = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
UNCLIPPING = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
FLOW = ("FlowMatch", "EDM", "Flow")  # of networks that predict neither eps nor v nor x0


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A folder's schedule, our sampler of that name (None: there is none), its noise levels where they aren't the
    schedule's own spacing, its eta, and notes for people."""

    schedule: ScheduleConfig
    sampler: str | None
    levels: str | None
    eta: float
    notes: tuple[str, ...]


def read_scheduler(config: Mapping[str, Any], pipeline: str) -> Scheduler:
    """Read a scheduler as the pipeline of this class does.

    Raises:
        CheckpointError: naming the option or class that is not supported.
    """
    kind = str(config.get("_class_name", "DDIMScheduler"))
    if kind.startswith(FLOW):
        raise CheckpointError(f"scheduler: {kind} is for networks trained on flows; eps, v and x0 are supported")
    given = {key: value for key, value in config.items() if value is not None}
    if pipeline in OFFSETTING:
        given["steps_offset"] = 1
    if pipeline in UNCLIPPING:
        given["clip_sample"] = False
    levels = next((name for option, name in LEVELS.items() if config.get(option)), None)
    schedule, sampler = ScheduleConfig.from_diffusers(given), _sampler(kind, config)
    return Scheduler(schedule, sampler, levels, ETA.get(kind, 0.0), (*_replaced(kind), *_dropped(config)))


def _sampler(kind: str, config: Mapping[str, Any]) -> str | None:
    if _stochastic(config):
        return STOCHASTIC[config.get("solver_order", 2)]
    return SAMPLERS.get(kind)


def _stochastic(config: Mapping[str, Any]) -> bool:
    return config.get("algorithm_type") == "sde-dpmsolver++" and config.get("solver_order", 2) in STOCHASTIC


def _replaced(kind: str) -> tuple[str, ...]:
    if kind in SAMPLERS:
        return ()
    return (
        f"scheduler: there is no sampler for {kind}; the card's default is taken, of {', '.join(SAMPLERS.values())}",
    )


def _dropped(config: Mapping[str, Any]) -> tuple[str, ...]:
    told = ("algorithm_type", "solver_order") if _stochastic(config) else ()
    options = ((key, config.get(key), same) for key, same in FOLLOWED.items() if key not in told)
    others = [
        f"{key} {value!r}"
        for key, value, same in options
        if value is not None and value != same and value not in ALSO.get(key, ())
    ]
    return (f"scheduler: not followed: {', '.join(others)}",) if others else ()
