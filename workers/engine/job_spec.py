"""All of a job that is known before a network runs: its plan, its size inside the model, its uploads decoded."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from contract.request import InpaintRequest, JobRequest
from core.errors import InvalidRequest
from core.pictures import check_sides, open_upload, read_label_map, read_mask
from models.config import ModelConfig
from models.networks.conditioning import RescalerConfig, TextConfig
from models.pipeline import LatentDiffusion
from models.samplers import Plan, compile_plan
from workers.engine.messages import Admission
from workers.engine.pictures import Frame

PICTURED = ("inpaint", "upscale", "img2img", "semantic2img")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a request means for its model."""

    model: LatentDiffusion
    request: JobRequest
    plan: Plan
    frame: Frame  # the uploaded picture's for upscale, the answer's for all else
    scale: int  # pixels of the answer per pixel of the frame
    upload: Image.Image | None
    mask: Image.Image | None
    labels: Image.Image | None  # a label map
    guided: bool

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of z_t."""
        width, height = self.frame.padded
        f = self.model.latent_factor
        return self.model.latent_channels, height * self.scale // f, width * self.scale // f


def job_spec_of(admission: Admission, model: LatentDiffusion, max_pixels: int) -> JobSpec:
    """Check and plan a job.

    Raises:
        InvalidRequest: a sampler, size, class, noise level, picture or mask that can't be used, naming field, value and
            bound.
    """
    request, config = admission.request, model.config
    _check_numbers(request, config)
    upload, mask, labels = _uploads(admission, config, max_pixels)
    picture = labels if upload is None else upload
    size = (request.width, request.height) if picture is None else picture.size
    scale = model.latent_factor if request.kind == "upscale" else 1
    check_sides((size[0] * scale, size[1] * scale), request.output_format, max_pixels)
    plan = compile_plan(request.sampler, model.schedule, request.steps, request.eta, request.denoising_strength)
    stride = 2 ** (len(config.unet.channels) - 1)
    frame = Frame(*size, stride * model.latent_factor // scale)
    guided = request.guided and (isinstance(config.conditioner, TextConfig) or config.null_class is not None)
    return JobSpec(model, request, plan, frame, scale, upload, mask, labels, guided)


def _uploads(
    admission: Admission, config: ModelConfig, max_pixels: int
) -> tuple[Image.Image | None, Image.Image | None, Image.Image | None]:
    """Decode the picture, its mask, a label map."""
    request = admission.request
    _check_files(admission)
    image, mask = admission.files.get("image"), admission.files.get("mask")
    if image is None:
        return None, None, None
    if request.kind == "semantic2img":
        classes = config.conditioner.in_channels if isinstance(config.conditioner, RescalerConfig) else 0
        return None, None, read_label_map(image, classes, max_pixels)
    upload = open_upload(image, max_pixels)
    if mask is None or not isinstance(request, InpaintRequest):
        return upload, None, None
    return upload, read_mask(mask, request.mask_mode, upload.size, max_pixels), None


def _check_files(admission: Admission) -> None:
    kind = admission.request.kind
    for name, needed in (("image", kind in PICTURED), ("mask", kind == "inpaint")):
        if needed and name not in admission.files:
            raise InvalidRequest(f"{kind} needs a file {name}", field=name, value=None, bound="a picture")


def _check_numbers(request: JobRequest, config: ModelConfig) -> None:
    """Check them against the weights, which have the last word after the card that the gateway asked."""
    levels = config.unet.num_classes if config.low_res_schedule is not None else None
    for field, value, bound, needed in (
        ("class_id", request.class_label, config.classes, request.kind == "class2img"),
        ("noise_level", request.class_label, levels, levels is not None),
    ):
        if needed and (value is None or bound is None or not 0 <= value < bound):
            limit = "nothing" if bound is None else f"0 to {bound - 1}"
            raise InvalidRequest(f"{field} is {value}; the model has {limit}", field=field, value=value, bound=limit)
