"""Whole models in CompVis's layout: conditioning, raw output, and sampling runs with their pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.layouts.compvis.model import load_compvis
from models.checkpoints.layouts.compvis.single_file import read_single
from models.checkpoints.load import assemble
from models.inputs import Inputs
from models.networks.conditioning import ClassEmbedder, TextEncoder
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, trajectory
from models.samplers import Plan, compile_plan
from models.samplers.update import apply, stack_rows
from models.schedule import NoiseSchedule
from tests.parity.case import Case, NotCoveredError

SUFFIX = "_without_ema"


class Whole:
    """Outputs of a whole latent diffusion model."""

    def __init__(self, case: Case) -> None:
        self.case = case
        file = read_single(case.weights)
        # Tiny text towers don't have CLIP's head width; the case says how many heads theirs have.
        self.file = replace(file, config={**file.config, **case.config})

    @cached_property
    def model(self) -> LatentDiffusion:
        return assemble(load_compvis(self.file), self.case.folder.name)

    def _plain(self) -> Whole:
        """The same with the weights beside the averages, as a config asks for them."""
        plain, model = Whole(self.case), self.file.config["model"]
        params = {**model["params"], "use_ema": False}
        plain.file = replace(self.file, config={**self.file.config, "model": {**model, "params": params}})
        return plain

    def __call__(self, output: str) -> Tensor:
        if output.endswith(SUFFIX):
            return self._plain()(output.removesuffix(SUFFIX))
        known: dict[str, Callable[[], Tensor | None]] = {
            "conditioning": lambda: self.inputs.context,
            "unconditional_conditioning": lambda: self.null_context,
            "condition": lambda: self.inputs.concat,
            "ancestral_next": self.ancestral,
            "eps": lambda: self.raw(output),
            "v": lambda: self.raw(output),
            "model_output": lambda: self.raw(output),
        }
        value = known[output]() if output in known else self.sampled(output)
        if value is None:
            raise NotCoveredError(output)
        return value

    @cached_property
    def inputs(self) -> Inputs:
        case, model = self.case, self.model
        ids, labels = case.optional("tokens"), case.optional("class_label")
        context = None
        if ids is not None and isinstance(model.conditioner, TextEncoder):
            context = model.encode_tokens([(ids, None)]).context
        elif labels is not None and isinstance(model.conditioner, ClassEmbedder):
            context = model.encode_labels(labels)
        return Inputs(context, self._concat(), case.optional("y", "noise_level"))

    def _concat(self) -> Tensor | None:
        inputs, kind = self.case.inputs, self.model.config.concat
        if kind == "low-res":
            return self.model.low_res_concat(inputs["lr"])
        if kind == "map":
            return self.model.map_concat(inputs["labels"])
        return None if kind is None else self.model.inpaint_concat(2 * inputs["image"] - 1, inputs["mask"])

    @cached_property
    def null_context(self) -> Tensor | None:
        """The empty prompt, or the last class."""
        tokens, embedder = self.case.optional("uncond_tokens"), self.model.conditioner
        if tokens is not None:
            return self.model.encode_tokens([(tokens, None)]).context
        if isinstance(embedder, ClassEmbedder):
            last = torch.full_like(self.case.inputs["class_label"], embedder.config.classes - 1)
            return self.model.encode_labels(last)
        return None

    def raw(self, output: str) -> Tensor:
        t = self.case.optional(f"{output}_timesteps", "timesteps")
        t = t if t is not None else self.case.noted_timesteps(output)
        if t is None:
            raise NotCoveredError(output)
        return self.model.predict(self.case.inputs["x_T"], t, self.inputs)

    def sampled(self, output: str) -> Tensor:
        """`latent`, `states` or a picture of one run."""
        runs = self.case.runs()
        prefix = max((p for p in runs if output.startswith(p)), key=len, default=None)
        if prefix is None:
            raise NotCoveredError(output)
        what, states = output.removeprefix(prefix), self.states(prefix)
        if what in ("latent", "states"):
            return states[-1] if what == "latent" else states
        return self.picture(what, states[-1])

    def picture(self, what: str, z: Tensor) -> Tensor:
        """The decoded latent, as the network gives it or as a person gets it."""
        model = self.model
        if what == "image_without_quantization":
            return model.first_stage.decode(z / model.scale_factor, quantize=False)
        if what not in ("image", "decoded", "uint8", "result"):
            raise NotCoveredError(what)
        image = model.decode(z)
        unit = ((image + 1) / 2).clamp(0, 1)
        if what == "result":
            mask = self.case.inputs["mask"]
            return (1 - mask) * self.case.inputs["image"] + mask * unit
        return (unit * 255).to(torch.uint8) if what == "uint8" else image

    @cache  # noqa: B019 (a case lives as long as its outputs are compared)
    def states(self, prefix: str) -> Tensor:
        """x_T and the latent after every step of a run, s+1 b c h w."""
        run = self.case.runs()[prefix]
        scale, noise = float(run.get("scale", 1.0)), self.case.noise(run)
        null = None if self.null_context is None else replace(self.inputs, context=self.null_context)
        conditioning = Conditioning(self.inputs, null, scale)
        x_t = self.case.inputs.get(f"{prefix}x_T", self.case.inputs["x_T"])
        plan = self.plan(prefix, run)
        drawn = None if noise is None else lambda i: noise[plan.rows[i].step - 1]
        after = [z for z, _ in trajectory(self.model, plan, x_t, conditioning, drawn)]
        # The first step of PLMS is two rows; the state counts after the last row of a step.
        steps = {row.step: z for row, z in zip(plan.rows, after, strict=True)}
        return torch.stack([x_t, *steps.values()])

    def plan(self, prefix: str, run: dict[str, Any]) -> Plan:
        match = re.match(r"plms|ddim|ddpm|euler|dpmpp_2m|unipc", prefix)
        sampler = run.get("sampler") or (match[0] if match else "ddim")
        spacing = run.get("discretize", run.get("ddim_discretize", "uniform"))
        schedule = NoiseSchedule(replace(self.model.config.schedule, spacing=spacing))
        return compile_plan(sampler, schedule, int(run["S"]), float(run.get("eta", 0.0)))

    def ancestral(self) -> Tensor:
        """Single DDPM steps at given timesteps: rows of the table that visits every one."""
        inputs, model = self.case.inputs, self.model
        config = replace(model.config.schedule, spacing="leading", steps_offset=0)
        plan = compile_plan("ddpm", NoiseSchedule(config), config.timesteps)
        rows = {int(row.t): row for row in plan.rows}
        after = []
        for i, t in enumerate(inputs["ancestral_t"].tolist()):
            x = inputs["ancestral_x"][i]
            c = stack_rows([rows[t]] * len(x))
            out = model.predict(x, torch.full((len(x),), float(t)), replace(self.inputs, labels=None))
            after.append(apply(c, out, x, None, inputs["ancestral_noise"][i])[0])
        return torch.stack(after)
