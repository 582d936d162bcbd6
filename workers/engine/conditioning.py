"""From a job to the inputs of its UNet, by one function for each way of conditioning, and to its first latent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from contract.common import PromptedRequest
from contract.request import Layout2ImgRequest
from contract.uploads import control_name
from models.add_ons.controls.canny import edges
from models.add_ons.controls.library import ControlLibrary
from models.inputs import Inputs
from models.networks.conditioning import ClassConfig, Encoded, TextConfig
from models.networks.controlnet import Control
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.noise import X_T, noise
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import depth_tensor, mask_tensor, to_tensor
from workers.prompts import PromptCache, Reading

LOW_RES = "low_res"  # purpose of the noise over an upscaler's input


@dataclass(frozen=True, slots=True)
class Known:
    """The part of a picture that a model without mask channels must keep: its latent, and 1 where it is repainted."""

    latent: Tensor  # c h w
    hole: Tensor  # 1 h w


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """What all images of a job share; no batch dimension."""

    inputs: Inputs
    unconditional: Inputs | None = None  # of the negative prompt or the null class, where guided
    bare: Inputs | None = None  # the same without the picture that is changed, where that leads, too
    latent: Tensor | None = None  # c h w of the uploaded picture, where noise is added to it
    known: Known | None = None


def placed(conditions: Conditions, model: LatentDiffusion) -> Conditions:
    """Put what the network reads where it computes, in its precision, so that no call has to."""

    def put(inputs: Inputs | None) -> Inputs | None:
        return None if inputs is None else inputs.to(model.device, model.dtype)

    inputs = conditions.inputs.to(model.device, model.dtype)
    return replace(conditions, inputs=inputs, unconditional=put(conditions.unconditional), bare=put(conditions.bare))


def prompted(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on the prompt; an inpainting UNet reads a wholly masked picture."""
    model = spec.model
    masked = model.config.concat in ("mask-latent", "latent-mask")
    return _conditions(spec, prompts, model.blank_concat(*spec.latent_shape[1:])[0] if masked else None)


def drawn_over(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on the prompt, and start from the picture's latent; InstructPix2Pix reads that beside z_t."""
    conditions = _edited(spec, prompts) if spec.model.config.concat == "source" else prompted(spec, prompts)
    return replace(conditions, latent=_latent(spec) if _starts_noised(spec) else None)


def _edited(spec: JobSpec, prompts: PromptCache) -> Conditions:
    conditions = _conditions(spec, prompts, spec.model.source_concat(_padded(spec))[0])
    null = conditions.unconditional
    if null is None or null.concat is None or spec.request.image_guidance == 1.0:
        return conditions
    return replace(conditions, bare=replace(null, concat=torch.zeros_like(null.concat)))


def led_by_depth(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on the prompt and on how near each pixel is, and start from the picture's latent."""
    concat = spec.model.depth_concat(spec.frame.pad(depth_tensor(spec.pictures["depth"])))[0]
    return replace(_conditions(spec, prompts, concat), latent=_latent(spec) if _starts_noised(spec) else None)


def repainted(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on the prompt and what the mask leaves of the picture, which other UNets get blended in."""
    blends, noised = spec.model.config.concat is None, _starts_noised(spec)
    conditions = _conditions(spec, prompts, None if blends else _inpaint_concat(spec))
    if not blends and not noised:
        return conditions
    latent = _latent(spec)
    return replace(conditions, latent=latent if noised else None, known=_known(spec, latent) if blends else None)


def enlarged(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on the small picture, without any noise that the UNet wants on it (`of_image` adds it)."""
    return _conditions(spec, prompts, spec.model.low_res_concat(_padded(spec))[0])


def classed(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on a class, by an embedder's context or as a label of the time embedding."""
    return _conditions(spec, prompts, None)


def mapped(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Condition on a label map."""
    label_map = torch.from_numpy(np.array(spec.pictures["image"], dtype=np.float32))[None, None]  # 1 1 H W
    return _conditions(spec, prompts, spec.model.map_concat(spec.frame.pad(label_map)[:, 0])[0])


def laid_out(spec: JobSpec, _prompts: PromptCache) -> Conditions:
    """Condition on boxes and their classes; LDM's layout models were trained with them always, so nothing guides."""
    assert isinstance(spec.request, Layout2ImgRequest)
    tokens = torch.tensor([spec.request.tokens])  # 1 n
    return Conditions(Inputs(context=spec.model.encode_tokens([(tokens, None)]).context[0]))


def _conditions(spec: JobSpec, prompts: PromptCache, concat: Tensor | None) -> Conditions:
    """Make the inputs of the condition and, where guided, of what it is led away from: their contexts differ."""
    inputs = Inputs(concat=concat, labels=_labels(spec), guidance_scale=_guidance_scale(spec))
    conditioner, request, config = spec.model.config.conditioner, spec.request, spec.model.config
    if isinstance(conditioner, TextConfig):
        score, negative_score = request.scores
        null = _read(spec, prompts, _negative(spec), inputs, negative_score) if spec.guided else None
        return Conditions(_read(spec, prompts, request.text, inputs, score), null)
    if isinstance(conditioner, ClassConfig):
        null = _of_class(spec, config.null_class, inputs) if spec.guided else None
        return Conditions(_of_class(spec, request.class_label, inputs), null)
    return Conditions(inputs, inputs if spec.guided else None)


def _read(spec: JobSpec, prompts: PromptCache, prompt: str | None, inputs: Inputs, score: float) -> Inputs:
    """Add what the network reads of a prompt, and is told of the picture."""
    request = spec.request
    reading = Reading(request.syntax, request.skip, spec.embeddings, spec.adapters)
    encoded = prompts.encoded(spec.model, prompt, reading)
    return replace(inputs, context=encoded.context[0], added=_added(spec, encoded, score))


def _negative(spec: JobSpec) -> str | None:
    """Return what guidance leads away from; None is no prompt, where the model tells it from an empty one."""
    own = isinstance(spec.request, PromptedRequest) and spec.request.negative_prompt is None
    return None if own and spec.model.config.zeros_for_no_prompt else spec.request.negative_text


def _added(spec: JobSpec, encoded: Encoded, score: float) -> Tensor | None:
    """Return the vector of SDXL: pooled text, then two sizes and a crop, or for its refiner a size, a crop, a score."""
    if encoded.pooled is None or spec.model.config.unet.added_dim is None:
        return None
    sizes = spec.request.told_sizes
    numbers = (*sizes[:4], score) if spec.model.config.refines else sizes
    return spec.model.added(encoded.pooled, torch.tensor([numbers], device=spec.model.device))[0]


def _of_class(spec: JobSpec, number: int | None, inputs: Inputs) -> Inputs:
    context = None if number is None else spec.model.encode_labels(torch.tensor([number]))[0]
    return replace(inputs, context=context)


def _labels(spec: JobSpec) -> Tensor | None:
    """Return the class or noise level that is added to the time embedding."""
    if spec.model.config.unet.num_classes is None:
        return None
    number = spec.request.class_label
    return None if number is None else torch.tensor(number, device=spec.model.device)


def _guidance_scale(spec: JobSpec) -> Tensor | None:
    """Return what a network that was distilled with guidance is told of it."""
    if spec.model.config.unet.guidance_dim is None:
        return None
    return torch.tensor(spec.request.guidance, device=spec.model.device)


def _starts_noised(spec: JobSpec) -> bool:
    return spec.request.denoising_strength < 1.0 or spec.request.span[0] > 0.0


def _latent(spec: JobSpec) -> Tensor:
    return spec.model.encode_images(_padded(spec))[0] if spec.latent is None else spec.latent  # c h w


def _known(spec: JobSpec, latent: Tensor) -> Known:
    return Known(latent, F.max_pool2d(_hole(spec), spec.model.latent_factor)[0].to(latent))


def _inpaint_concat(spec: JobSpec) -> Tensor:
    """Return k h w."""
    hole = _hole(spec)
    # By every f-th pixel, as networks are trained, a thin line would get lost.
    cells = F.max_pool2d(hole, spec.model.latent_factor)
    return spec.model.inpaint_concat(_padded(spec), hole, cells)[0]


def _padded(spec: JobSpec) -> Tensor:
    return spec.frame.pad(to_tensor(spec.pictures["image"]))  # 1 3 H W


def _hole(spec: JobSpec) -> Tensor:
    return spec.frame.pad(mask_tensor(spec.pictures["mask"]))  # 1 1 H W


def controls(spec: JobSpec, library: ControlLibrary) -> tuple[Control, ...]:
    """Load the ControlNets that the request names, and let each read its picture, once for all steps.

    Raises:
        CheckpointError: as `ControlLibrary.network`.
    """
    return tuple(_control(spec, library, number) for number in range(len(spec.request.applied_controls)))


def _control(spec: JobSpec, library: ControlLibrary, number: int) -> Control:
    applied = spec.request.applied_controls[number]
    network, picture = library.network(spec.model, applied), spec.pictures[control_name(number)]
    shown = edges(picture) if applied.preprocess == "canny" else picture
    x = (spec.frame.pad(to_tensor(shown)) + 1.0) / 2.0  # 1 3 H W
    hint = network.embed(x.to(spec.model.device, spec.model.dtype))[0]  # c h w
    return Control(network, hint, applied.scale, applied.start, applied.end)


def of_image(spec: JobSpec, conditions: Conditions, seed: int) -> Conditions:
    """Return the conditions of one image: an upscaler with noise levels gets noise of the image's seed."""
    level, low_res = spec.request.class_label, conditions.inputs.concat
    if spec.model.config.low_res_schedule is None or level is None or low_res is None:
        return conditions
    drawn = noise(seed, spec.purpose + LOW_RES, 0, low_res.shape)[None]  # 1 3 h w
    concat, null = spec.model.low_res_concat(low_res[None], level, drawn)[0], conditions.unconditional
    unconditional = None if null is None else replace(null, concat=concat)
    return replace(conditions, inputs=replace(conditions.inputs, concat=concat), unconditional=unconditional)


def starting_noise(spec: JobSpec, seed: int) -> Tensor:
    """Draw x_T of an image, c h w."""
    return noise(seed, spec.purpose + X_T, 0, spec.latent_shape).to(spec.model.device)


def starting_latent(spec: JobSpec, conditions: Conditions, x_T: Tensor) -> Tensor:
    """Return z at the plan's first row, c h w: noise, or the picture's latent under it (SDEdit, Meng et al. 2022)."""
    if conditions.latent is None:
        return spec.plan.noise_scale * x_T
    start = spec.plan.start
    if spec.request.span[0] > 0.0:
        # The picture has its noise already: x0 + σ/α·ξ, as samplers in σ keep it (diffusers' Euler).
        return start.alpha * conditions.latent.float()
    return start.alpha * conditions.latent.float() + start.sigma * x_T


def ending_latent(spec: JobSpec, z_t: Tensor) -> Tensor:
    """Return what is decoded, c h w: with noise left for another model x0 + σ/α·ξ, as that one reads it."""
    return z_t / spec.plan.end.alpha if spec.request.span[1] < 1.0 else z_t


def blend_known(z_t: Tensor, known: Known, x_T: Tensor, alpha: float, sigma: float) -> Tensor:
    """Set the kept region of z_t to its own latent at this noise level (RePaint, Lugmayr et al. 2022, Eq. 8a)."""
    return torch.where(known.hole > 0.5, z_t, alpha * known.latent.float() + sigma * x_T)
