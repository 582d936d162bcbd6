"""Folders that diffusers wrote: embeddings, conditioning, raw output, latents and pictures of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property

import torch
from torch import Tensor

from models.checkpoints.files.weights import read_json
from models.checkpoints.load import load
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers import compile_plan
from tests.parity.case import Case, NotCoveredError

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "plms",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
}


class Pipeline:
    """Outputs of a diffusers pipeline."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model: LatentDiffusion = load(case.weights)
        self.sampling = case.spec.get("sampling", {})

    def __call__(self, output: str) -> Tensor:
        case, model = self.case, self.model
        if match := re.fullmatch(r"unet_output_t(\d+)", output):
            return self.raw(float(match[1]))
        known: dict[str, Callable[[], Tensor | None]] = {
            "prompt_embeds": lambda: self.context,
            "negative_prompt_embeds": lambda: self.null_context,
            "masked_image_latents": lambda: self.inpaint_concat[:, 1:],
            "latent_mask": lambda: self.inpaint_concat[:, :1],
            "noised_lr": lambda: self.concat,
            "latent": lambda: self.latent(self.guidance_scale),
            "latent_noguidance": lambda: self.latent(1.0),
            "image": lambda: model.decode(self.latent(self.guidance_scale)),
            "image_noguidance": lambda: model.decode(self.latent(1.0)),
            "vq_encoding_of_lr": lambda: model.encode_images(case.inputs["lr"]),
        }
        value = known[output]() if output in known else None
        if value is None:
            raise NotCoveredError(output)
        return value

    @property
    def guidance_scale(self) -> float:
        return float(self.sampling.get("guidance_scale", 1.0))

    @cached_property
    def context(self) -> Tensor | None:
        ids = self.case.optional("input_ids")
        return None if ids is None else self.model.encode_tokens([(ids, None)]).context

    @cached_property
    def null_context(self) -> Tensor | None:
        ids = self.case.optional("uncond_input_ids")
        return None if ids is None else self.model.encode_tokens([(ids, None)]).context

    @cached_property
    def inpaint_concat(self) -> Tensor:
        """Inputs are pictures in [0, 1]."""
        return self.model.inpaint_concat(2 * self.case.inputs["image"] - 1, self.case.inputs["mask"])

    @cached_property
    def concat(self) -> Tensor | None:
        config, inputs = self.model.config, self.case.inputs
        if config.concat == "low-res":
            noised = config.low_res_schedule is not None  # whose pipeline takes pictures in [0, 1]
            lr, level = (2 * inputs["lr"] - 1 if noised else inputs["lr"]), int(self.sampling.get("noise_level", 0))
            return self.model.low_res_concat(lr, level, inputs.get("low_res_noise"))
        return None if config.concat is None else self.inpaint_concat

    @cached_property
    def labels(self) -> Tensor | None:
        if self.model.config.low_res_schedule is None:
            return self.case.optional("class_labels")
        return torch.full((len(self.case.inputs["latents"]),), int(self.sampling["noise_level"]))

    def raw(self, t: float) -> Tensor:
        z = self.case.inputs["latents"]
        return self.model.predict(z, torch.full((len(z),), t), Inputs(self.context, self.concat, self.labels))

    @cache  # noqa: B019 (a case lives as long as its outputs are compared)
    def latent(self, guidance_scale: float) -> Tensor:
        case, model = self.case, self.model
        kind = read_json(case.weights / "scheduler" / "scheduler_config.json")["_class_name"]
        eta, steps = float(self.sampling.get("eta", 0.0)), int(self.sampling["steps"])
        plan = compile_plan(SAMPLERS[kind], model.schedule, steps, eta)
        noise = case.noise(self.sampling)
        # Stable Diffusion's pipelines guide above 1 only, the older ones wherever the scale isn't 1.
        if guidance_scale < 1.0 and str(case.config["pipeline"]).startswith("StableDiffusion"):
            guidance_scale = 1.0
        inputs = Inputs(self.context, self.concat, self.labels)
        unconditional = None if self.null_context is None else replace(inputs, context=self.null_context)
        conditioning = Conditioning(inputs, unconditional, guidance_scale)
        drawn = None if noise is None else lambda i: noise[i]
        return sample(model, plan, case.inputs["latents"], conditioning, drawn)
