"""Runs of one model by many samplers: diffusers' schedulers, or k-diffusion's samplers on its sets of σ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.layouts.diffusers.scheduler import read_scheduler
from models.checkpoints.load import load
from models.inputs import Inputs
from models.networks.unet import guidance_embedding
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers import Plan, compile_plan
from models.samplers.levels import SIGMAS, SigmaTable
from models.samplers.table import history_of
from models.schedule import NoiseSchedule
from tests.parity.case import Case, NotCoveredError


@dataclass(frozen=True, slots=True)
class Ours:
    """What a run is called here: the sampler, the set of steps, and the schedule that the run's scheduler says."""

    sampler: str
    levels: str | None
    schedule: NoiseSchedule


class SamplerRuns:
    """Outputs `<run>_latent` and `<run>_timesteps`, and k-diffusion's `sigmas_<set>_<S>` and `timesteps_<set>_<S>`."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model: LatentDiffusion = load(case.weights)

    def __call__(self, output: str) -> Tensor:
        if match := re.fullmatch(r"(sigmas|timesteps)_(\w+)_(\d+)", output):
            return self.table(match[1], match[2], int(match[3]))
        name, _, what = output.rpartition("_")
        run = self.case.spec["sampling"].get(name)
        known: Mapping[str, Callable[[Mapping[str, Any]], Tensor]] = {"latent": self.latent, "timesteps": self.asked}
        if run is None or what not in known:
            raise NotCoveredError(output)
        return known[what](run)

    def table(self, what: str, levels: str, steps: int) -> Tensor:
        table = SigmaTable.of(self.model.schedule)
        sigmas = [float(sigma) for sigma in SIGMAS[levels](table, steps)]
        return torch.tensor([*sigmas, 0.0] if what == "sigmas" else [table.t(sigma) for sigma in sigmas])

    def asked(self, run: Mapping[str, Any]) -> Tensor:
        """The timesteps that the network gets."""
        return torch.tensor([row.t for row in self.plan(run).rows])

    def latent(self, run: Mapping[str, Any]) -> Tensor:
        plan, inputs = self.plan(run), self.case.inputs
        start = plan.start
        z = plan.noise_scale * inputs["latents"]
        if "strength" in run:
            z = start.alpha * inputs["image_latent"] + start.sigma * inputs["noise"]
        conditioning = Conditioning(self.conditions[0], self.conditions[1], float(run["scale"]))
        return sample(self.model, plan, z, conditioning, lambda row: inputs["step_noise"][_draws(plan, row)])

    @cached_property
    def conditions(self) -> tuple[Inputs, Inputs]:
        ids = self.case.inputs
        return (
            Inputs(self.model.encode_tokens([(ids["input_ids"], None)]).context),
            Inputs(self.model.encode_tokens([(ids["uncond_input_ids"], None)]).context),
        )

    def plan(self, run: Mapping[str, Any]) -> Plan:
        ours, steps, strength = self.ours(run), int(run["S"]), float(run.get("strength", 1.0))
        eta = float(run.get("eta") or 0.0)
        if ours.sampler == "lms" and "scheduler" in run and strength < 1.0:
            return _cut(compile_plan("lms", ours.schedule, steps, levels=ours.levels), strength)
        return compile_plan(ours.sampler, ours.schedule, steps, eta, strength, ours.levels)

    def ours(self, run: Mapping[str, Any]) -> Ours:
        if "scheduler" not in run:
            return Ours(run["sampler"], run["sigmas"], self.model.schedule)
        config = {"_class_name": run["scheduler"], **run["scheduler_config"]}
        read = read_scheduler(config, "StableDiffusionPipeline")
        if read.sampler is None or any("not followed" in note for note in read.notes):
            raise NotCoveredError(f"{run['scheduler']}: {read.notes}")
        return Ours(read.sampler, read.levels, NoiseSchedule(read.schedule))


class FullLcm:
    """Outputs of a network that reads the guidance scale itself: one pass a step."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model: LatentDiffusion = load(case.weights)
        self.scale = torch.full((len(case.inputs["latents"]),), float(case.spec["sampling"]["guidance_scale"]))

    def __call__(self, output: str) -> Tensor:
        context = self.model.encode_tokens([(self.case.inputs["input_ids"], None)]).context
        if output == "prompt_embeds":
            return context
        inputs, latents = Inputs(context, guidance_scale=self.scale), self.case.inputs["latents"]
        if output == "guidance_embedding":
            return guidance_embedding(self.scale, self.model.config.unet.guidance_dim or 0)
        if match := re.fullmatch(r"unet_output_t(\d+)", output):
            return self.model.predict(latents, torch.full((len(latents),), float(match[1])), inputs)
        if match := re.fullmatch(r"latent(?:_(\d+))?", output):
            plan = compile_plan("lcm", self.model.schedule, int(match[1] or self.case.spec["sampling"]["steps"]))
            return sample(
                self.model, plan, latents, Conditioning(inputs), lambda row: self.case.inputs["step_noise"][row]
            )
        raise NotCoveredError(output)


@cache
def _draws(plan: Plan, row: int) -> int:
    """How often noise was drawn before this row; a row of factor 0 is never asked for its own."""
    return sum(1 for earlier in plan.rows[:row] if earlier.noise)


def _cut(plan: Plan, strength: float) -> Plan:
    """The last rows of a whole run, weights that they read lost predictions with left out.

    diffusers' LMS starts its weights at the order of the whole run over a picture, where there is but one prediction
    yet, so that they don't add up to the step; `compile_plan` begins at order 1, as k-diffusion does.
    """
    rows = plan.rows[len(plan.rows) - int(len(plan.rows) * strength) :]
    rows = tuple(replace(row, predictions=row.predictions[: i + 1]) for i, row in enumerate(rows))
    return replace(plan, steps=len(rows), rows=rows, history=history_of(rows))
