"""From a request to what the UNet reads beside z_t: plan, frame, text context, concatenated pictures, first latent."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from latentd.errors import InvalidRequest
from latentd.pictures import check_sides, open_upload, read_mask
from models.noise import X_T, noise
from models.pipeline import LatentDiffusion
from models.samplers import Plan, compile_plan
from workers.images import Frame, mask_tensor, to_tensor
from workers.tasks import Admission

PROMPTS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All of a job that is known without running a network."""

    model: LatentDiffusion
    plan: Plan
    frame: Frame  # the uploaded picture's for upscale, the answer's for all else
    scale: int  # pixels of the answer per pixel of the frame
    upload: Image.Image | None
    mask: Image.Image | None
    guided: bool

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of z_t."""
        width, height = self.frame.padded
        f = self.model.latent_factor
        return self.model.latent_channels, height * self.scale // f, width * self.scale // f


@dataclass(frozen=True, slots=True)
class Known:
    """The part of a picture that a model without mask channels must keep: its latent, and 1 where it is repainted."""

    latent: Tensor  # c h w
    hole: Tensor  # 1 h w


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all images of a job share; no batch dimension."""

    context: Tensor | None = None  # n d
    unconditional: Tensor | None = None  # n d, of the negative prompt, where guided
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


def blueprint(admission: Admission, model: LatentDiffusion, max_pixels: int) -> Blueprint:
    """Check and plan a job.

    Raises:
        InvalidRequest: a sampler, size, picture or mask that can't be used, naming field, value and bound.
    """
    request = admission.request
    upload = None if admission.image is None else open_upload(admission.image, max_pixels)
    mask = None
    if upload is not None and admission.mask is not None:
        mask = read_mask(admission.mask, request.mask_mode or "auto", upload.size, max_pixels)
    _check_pictures(admission, upload, mask)
    stride = 2 ** (len(model.config.unet.channels) - 1)
    scale = model.latent_factor if request.kind == "upscale" else 1
    size = (request.width, request.height) if upload is None else upload.size
    check_sides((size[0] * scale, size[1] * scale), request.output_format, max_pixels)
    plan = compile_plan(request.sampler, model.schedule, request.steps, request.eta, request.strength or 1.0)
    frame = Frame(*size, stride * model.latent_factor // scale)
    return Blueprint(model, plan, frame, scale, upload, mask, request.guided and model.tokenizer is not None)


def _check_pictures(admission: Admission, upload: Image.Image | None, mask: Image.Image | None) -> None:
    kind = admission.request.kind
    for name, needed, given in (
        ("image", kind in ("inpaint", "upscale", "img2img"), upload),
        ("mask", kind == "inpaint", mask),
    ):
        if needed and given is None:
            raise InvalidRequest(f"{kind} needs a file {name}", field=name, value=None, bound="a picture")


def prepare(admission: Admission, blue: Blueprint, prompts: PromptCache) -> Conditions:
    """Run the networks that a job needs before its first step, one prompt and one picture at a time."""
    request, model = admission.request, blue.model
    text = model.tokenizer is not None
    context = prompts.context(model, request.prompt) if text else None
    unconditional = prompts.context(model, request.negative_prompt) if blue.guided else None
    if request.kind == "upscale":
        concat = model.low_res_concat(_padded(blue))[0]
        return Conditions(context, unconditional, concat)
    blends = model.config.concat is None and blue.mask is not None
    from_upload = blue.upload is not None and (request.strength or 1.0) < 1.0
    latent = model.encode_images(_padded(blue))[0] if blends or from_upload else None  # c h w
    return Conditions(
        context,
        unconditional,
        concat=_inpaint_concat(blue),
        latent=latent if from_upload else None,
        known=_known(blue, latent) if blends else None,
    )


def _known(blue: Blueprint, latent: Tensor | None) -> Known:
    assert latent is not None
    return Known(latent, F.max_pool2d(_hole(blue), blue.model.latent_factor)[0].to(latent))


def _inpaint_concat(blue: Blueprint) -> Tensor | None:
    model = blue.model
    if model.config.concat not in ("mask-latent", "latent-mask"):
        return None
    if blue.mask is None:
        return model.blank_concat(*blue.latent_shape[1:])[0]
    hole, f = _hole(blue), model.latent_factor
    # The UNet's mask takes every f-th pixel: make that one stand for its whole block, or a thin line would get lost.
    hole[..., ::f, ::f] = F.max_pool2d(hole, f)
    return model.inpaint_concat(_padded(blue), hole)[0]


def _padded(blue: Blueprint) -> Tensor:
    assert blue.upload is not None
    return blue.frame.pad(to_tensor(blue.upload))  # 1 3 H W


def _hole(blue: Blueprint) -> Tensor:
    assert blue.mask is not None
    return blue.frame.pad(mask_tensor(blue.mask))  # 1 1 H W


def starting_noise(blue: Blueprint, seed: int) -> Tensor:
    """x_T of an image, c h w."""
    return noise(seed, X_T, 0, blue.latent_shape).to(blue.model.device)


def starting_latent(blue: Blueprint, conditions: Conditions, x_T: Tensor) -> Tensor:
    """z at the plan's first row, c h w: noise, or the uploaded picture's latent under it (SDEdit, Meng et al. 2022)."""
    if conditions.latent is None:
        return x_T
    start = blue.plan.start
    return start.alpha * conditions.latent.float() + start.sigma * x_T


def blend_known(z_t: Tensor, known: Known, x_T: Tensor, alpha: float, sigma: float) -> Tensor:
    """z_t with the kept region set to its own latent at this noise level (RePaint, Lugmayr et al. 2022, Eq. 8a)."""
    return torch.where(known.hole > 0.5, z_t, alpha * known.latent.float() + sigma * x_T)
