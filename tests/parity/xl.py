"""SDXL, as a folder or a single file: two towers' context and pooled text, the added vector, runs and their parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.load import load
from models.inputs import Inputs
from models.networks.conditioning import Encoded
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers import compile_plan
from tests.parity.case import Case, NotCoveredError
from tests.parity.whole import Whole

SIZES = ("original_size", "crops_coords_top_left", "target_size")


class XL:
    """Outputs of a Stable Diffusion XL model."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.sampling: dict[str, Any] = case.spec["sampling"]
        self.model: LatentDiffusion = load(case.weights) if "pipeline" in case.config else Whole(case).model

    def __call__(self, output: str) -> Tensor:
        if match := re.fullmatch(r"unet_output_t(\d+)", output):
            return self.raw(float(match[1]))
        if match := re.fullmatch(r"(?:latent_)?denoising_start_(\d+)", output):
            return self.finished(int(match[1]) / 100)
        known: dict[str, Callable[[], Tensor | None]] = {
            "prompt_embeds": lambda: self.encoded.context,
            "conditioning": lambda: self.encoded.context,
            "pooled_prompt_embeds": lambda: self.encoded.pooled,
            "pooled": lambda: self.encoded.pooled,
            "negative_prompt_embeds": lambda: self.negative.context,
            "unconditional_conditioning": lambda: self.negative.context,
            "negative_pooled_prompt_embeds": lambda: self.negative.pooled,
            "unconditional_pooled": lambda: self.negative.pooled,
            "vector": lambda: self.inputs(self.encoded, "aesthetic_score").added,
            "model_output": lambda: self.raw(float(self.timestep)),
            "masked_image_latents": lambda: self.concat[:, 1:],
            "latent_mask": lambda: self.concat[:, :1],
            "image_latent": lambda: self.image_latent,
        }
        value = known[output]() if output in known else self.drawn(output)
        if value is None:
            raise NotCoveredError(output)
        return value

    @property
    def timestep(self) -> int:
        """Of the raw output: the refiner's is named in a note."""
        raw: list[int] = self.sampling.get("raw_timesteps", [201])
        return raw[0]

    @property
    def strengths(self) -> list[float]:
        return self.sampling.get("strengths") or [float(self.sampling.get("strength", 1.0))]

    @cached_property
    def encoded(self) -> Encoded:
        return self._encoded("")

    @cached_property
    def negative(self) -> Encoded:
        return self._encoded("uncond_")

    def _encoded(self, prefix: str) -> Encoded:
        names = [name for kind in ("input_ids", "tokens") for name in (f"{prefix}{kind}", f"{prefix}{kind}_2")]
        return self.model.encode_tokens(
            [(ids, None) for name in names if (ids := self.case.optional(name)) is not None]
        )

    @cached_property
    def concat(self) -> Tensor:
        return self.model.inpaint_concat(self.picture, self.case.inputs["mask"])

    @cached_property
    def image_latent(self) -> Tensor:
        return self.model.encode_images(self.picture, self.case.inputs["posterior_noise"])

    @property
    def picture(self) -> Tensor:
        """In [−1, 1]; the inpainting case has it in [0, 1]."""
        image = self.case.inputs["image"]
        return image if self.case.spec["inputs"]["image"]["doc"] == "[-1,1]" else 2 * image - 1

    @property
    def drawn_noise(self) -> Tensor:
        noise = self.case.optional("latents", "x_T", "noise")
        assert noise is not None
        return noise

    def inputs(self, encoded: Encoded, score: str) -> Inputs:
        """What the network reads beside z_t; sizes are written height first."""
        numbers = [number for name in SIZES for number in self.sampling[name]]
        numbers = [*numbers[:4], self.sampling[score]] if self.model.config.refines else numbers
        rows = len(encoded.context)
        concat = self.concat if self.model.config.concat is not None else None
        assert encoded.pooled is not None
        added = self.model.added(encoded.pooled, torch.tensor([numbers] * rows))
        return Inputs(encoded.context, concat, added=added)

    def raw(self, t: float) -> Tensor:
        z = self.drawn_noise
        return self.model.predict(z, torch.full((len(z),), t), self.inputs(self.encoded, "aesthetic_score"))

    def drawn(self, output: str) -> Tensor:
        """A latent, or the picture of one."""
        match = re.fullmatch(r"(latent|image)(?:_s(\d+)|_(\w+))?", output)
        if match is None:
            raise NotCoveredError(output)
        kind, strength, variant = match.groups()
        z = self.latent(int(strength) / 100 if strength else self.strengths[0], variant)
        return self.model.decode(z) if kind == "image" else z

    def latent(self, strength: float, variant: str | None) -> Tensor:
        step_noise, noise = self.case.noise(self.sampling), self.drawn_noise
        sampler = "lcm" if self.case.optional("step_noise") is not None else "euler"
        plan = compile_plan(sampler, self.model.schedule, self.steps, 0.0, strength)
        latent = self.image_latent if strength < 1.0 else torch.zeros_like(noise)
        z_t = plan.start.alpha * latent + (plan.start.sigma if strength < 1.0 else 1.0) * noise
        drawn = None if step_noise is None else lambda row: step_noise[row]
        return sample(self.model, plan, z_t, self.conditioning(variant), drawn)

    def finished(self, start: float) -> Tensor:
        """What another model began: the picture's latent is taken as noisy, as x₀ + σ/α · noise."""
        plan = compile_plan("euler", self.model.schedule, self.steps, span=(start, 1.0))
        return sample(self.model, plan, plan.start.alpha * self.image_latent, self.conditioning(None))

    @property
    def steps(self) -> int:
        return int(self.sampling.get("steps", self.sampling.get("S", 0)))

    def conditioning(self, variant: str | None) -> Conditioning:
        """Guided as the run says, or as a name of another output has it."""
        rows = len(self.encoded.context)
        zeros = Encoded(*(torch.cat([each] * rows) for each in self.zeros()))
        negative = zeros if variant == "no_negative_prompt" else self.negative
        scale = (
            1.0
            if variant == "noguidance"
            else float(self.sampling["guidance_scale" if "guidance_scale" in self.sampling else "scale"])
        )
        rescale = 0.0 if variant == "without_rescale" else float(self.sampling.get("guidance_rescale", 0.0))
        return Conditioning(
            self.inputs(self.encoded, "aesthetic_score"),
            self.inputs(negative, "negative_aesthetic_score"),
            scale,
            rescale,
        )

    def zeros(self) -> tuple[Tensor, Tensor]:
        """No prompt at all, of one row."""
        pooled = self.encoded.pooled
        assert pooled is not None
        return torch.zeros_like(self.encoded.context[:1]), torch.zeros_like(pooled[:1])
