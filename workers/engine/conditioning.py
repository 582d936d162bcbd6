"""From a job to what its UNet reads beside z_t: context or labels, concatenated pictures, and the first latent."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.conditioning import ClassConfig, TextConfig
from models.pipeline import LatentDiffusion
from models.samplers.noise import X_T, noise
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import mask_tensor, to_tensor

PROMPTS_KEPT = 256
LOW_RES = "low_res"  # purpose of the noise over an upscaler's input


@dataclass(frozen=True, slots=True)
class Known:
    """The part of a picture that a model without mask channels must keep: its latent, and 1 where it is repainted."""

    latent: Tensor  # c h w
    hole: Tensor  # 1 h w


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all images of a job share; no batch dimension."""

    context: Tensor | None = None  # n d
    unconditional: Tensor | None = None  # n d, of the negative prompt or the null class, where guided
    label: int | None = None  # class or noise level, added to the time embedding
    concat: Tensor | None = None  # k h w
    latent: Tensor | None = None  # c h w of the uploaded picture, where noise is added to it
    known: Known | None = None


@dataclass(slots=True)
class PromptCache:
    """Contexts by model and prompt, the least recently used dropped.

    Prompts are encoded one at a time, so that a context has the same bits whoever asked for it.
    """

    kept: OrderedDict[tuple[str, str], Tensor] = field(default_factory=OrderedDict)

    def context(self, model: LatentDiffusion, prompt: str) -> Tensor:
        """n d."""
        key = (model.id, prompt)
        if key not in self.kept:
            self.kept[key] = model.encode_prompts([prompt])[0]
        self.kept.move_to_end(key)
        if len(self.kept) > PROMPTS_KEPT:
            self.kept.popitem(last=False)
        return self.kept[key]


def prepare(blue: JobSpec, prompts: PromptCache) -> Conditions:
    """Run the networks that a job needs before its first step, one prompt and one picture at a time.

    Raises:
        CheckpointError: the model lacks what the job's kind needs.
    """
    blends = blue.model.config.concat is None and blue.mask is not None
    noised = blue.request.kind in ("inpaint", "img2img") and blue.request.denoising_strength < 1.0
    latent = blue.model.encode_images(_padded(blue))[0] if blends or noised else None  # c h w
    context, unconditional = _contexts(blue, prompts)
    return Conditions(
        context,
        unconditional,
        label=_label(blue),
        concat=_concat(blue),
        latent=latent if noised else None,
        known=_known(blue, latent) if blends else None,
    )


def _contexts(blue: JobSpec, prompts: PromptCache) -> tuple[Tensor | None, Tensor | None]:
    """n d of the condition and, where guided, of what it is led away from."""
    model, request, conditioner = blue.model, blue.request, blue.model.config.conditioner
    if isinstance(conditioner, TextConfig):
        negative = prompts.context(model, request.negative_text) if blue.guided else None
        return prompts.context(model, request.text), negative
    if isinstance(conditioner, ClassConfig):
        null = model.config.null_class if blue.guided else None
        return _class(model, request.class_label), _class(model, null)
    return None, None


def _class(model: LatentDiffusion, number: int | None) -> Tensor | None:
    return None if number is None else model.encode_labels(torch.tensor([number]))[0]


def _label(blue: JobSpec) -> int | None:
    if blue.model.config.unet.num_classes is None:
        return None
    return blue.request.class_label


def _known(blue: JobSpec, latent: Tensor | None) -> Known:
    assert latent is not None
    return Known(latent, F.max_pool2d(_hole(blue), blue.model.latent_factor)[0].to(latent))


def _concat(blue: JobSpec) -> Tensor | None:
    """k h w; without any noise that the UNet wants on a low-resolution picture (`of_image` adds it)."""
    model = blue.model
    if blue.labels is not None:
        label_map = torch.from_numpy(np.array(blue.labels, dtype=np.float32))[None, None]  # 1 1 H W
        return model.map_concat(blue.frame.pad(label_map)[:, 0])[0]
    if blue.request.kind == "upscale":
        return model.low_res_concat(_padded(blue))[0]
    return _inpaint_concat(blue) if model.config.concat in ("mask-latent", "latent-mask") else None


def _inpaint_concat(blue: JobSpec) -> Tensor:
    model = blue.model
    if blue.mask is None:
        return model.blank_concat(*blue.latent_shape[1:])[0]
    hole, f = _hole(blue), model.latent_factor
    # The UNet's mask takes every f-th pixel: make that one stand for its whole block, or a thin line would get lost.
    hole[..., ::f, ::f] = F.max_pool2d(hole, f)
    return model.inpaint_concat(_padded(blue), hole)[0]


def _padded(blue: JobSpec) -> Tensor:
    assert blue.upload is not None
    return blue.frame.pad(to_tensor(blue.upload))  # 1 3 H W


def _hole(blue: JobSpec) -> Tensor:
    assert blue.mask is not None
    return blue.frame.pad(mask_tensor(blue.mask))  # 1 1 H W


def of_image(blue: JobSpec, conditions: Conditions, seed: int) -> Conditions:
    """The conditions of one image of the job: an upscaler with noise levels gets noise of the image's seed."""
    level, low_res = blue.request.class_label, conditions.concat
    if blue.model.config.low_res_schedule is None or level is None or low_res is None:
        return conditions
    drawn = noise(seed, LOW_RES, 0, low_res.shape)[None]  # 1 3 h w
    return replace(conditions, concat=blue.model.low_res_concat(low_res[None], level, drawn)[0])


def starting_noise(blue: JobSpec, seed: int) -> Tensor:
    """x_T of an image, c h w."""
    return noise(seed, X_T, 0, blue.latent_shape).to(blue.model.device)


def starting_latent(blue: JobSpec, conditions: Conditions, x_T: Tensor) -> Tensor:
    """z at the plan's first row, c h w: noise, or the uploaded picture's latent under it (SDEdit, Meng et al. 2022)."""
    if conditions.latent is None:
        return x_T
    start = blue.plan.start
    return start.alpha * conditions.latent.float() + start.sigma * x_T


def blend_known(z_t: Tensor, known: Known, x_T: Tensor, alpha: float, sigma: float) -> Tensor:
    """z_t with the kept region set to its own latent at this noise level (RePaint, Lugmayr et al. 2022, Eq. 8a)."""
    return torch.where(known.hole > 0.5, z_t, alpha * known.latent.float() + sigma * x_T)
