"""The kinds of task, each declared once: how uploads are read, size, conditioning and finish follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from PIL import Image

from contract.base import Kind
from contract.request import InpaintRequest, JobRequest, Layout2ImgRequest
from contract.stages import stages
from contract.uploads import control_name
from core.errors import InvalidRequest
from core.pictures import (
    ANY_CLASS,
    check_classes,
    check_control_size,
    check_sides,
    open_upload,
    read_depth,
    read_label_map,
    read_mask,
)
from models.networks.conditioning import RescalerConfig, TextConfig
from models.pipeline.config import ModelConfig
from models.pipeline.pipeline import LatentDiffusion
from models.samplers import compile_plan
from workers.engine import conditioning
from workers.engine.conditioning import Conditions
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import Frame, enlarge_alpha, paste
from workers.prompts import PromptCache

ANY_SIZE = 2**62  # the gateway has checked it

Pictures: TypeAlias = Mapping[str, Image.Image]
ReadUpload: TypeAlias = Callable[[bytes, JobRequest, Pictures], Image.Image]  # the request's, after those before it


def as_picture(data: bytes, _request: JobRequest, _others: Pictures) -> Image.Image:
    """Decode RGB or RGBA."""
    return open_upload(data, ANY_SIZE)


def as_mask(data: bytes, request: JobRequest, others: Pictures) -> Image.Image:
    """Decode a mask over `image`, 255 where it is repainted."""
    assert isinstance(request, InpaintRequest)
    return read_mask(open_upload(data, ANY_SIZE, "mask"), request.mask_mode, others["image"].size)


def as_depth(data: bytes, _request: JobRequest, others: Pictures) -> Image.Image:
    """Decode how near each pixel of `image` is."""
    return read_depth(data, others["image"].size, ANY_SIZE)


def as_label_map(data: bytes, _request: JobRequest, _others: Pictures) -> Image.Image:
    """Decode the number of a class at every pixel."""
    return read_label_map(data, ANY_CLASS, ANY_SIZE)  # `job_spec_of` checks classes against the weights


def _same_size(_model: LatentDiffusion) -> int:
    return 1


def _enlarged_size(model: LatentDiffusion) -> int:
    return model.latent_factor


def _anything(_request: JobRequest, _config: ModelConfig, _pictures: Pictures) -> None:
    """Check nothing."""


def _known_class(request: JobRequest, config: ModelConfig, _pictures: Pictures) -> None:
    check_below("class_id", request.class_label, config.classes)


def _known_tokens(request: JobRequest, config: ModelConfig, _pictures: Pictures) -> None:
    assert isinstance(request, Layout2ImgRequest)
    tower, tokens = config.layout, request.tokens
    if tower is None or len(tokens) != tower.positions:
        bound = 0 if tower is None else tower.positions
        detail = f"tokens are {len(tokens)}; the model reads {bound}"
        raise InvalidRequest(detail, field="tokens", value=len(tokens), bound=bound)
    for number in tokens:
        check_below("tokens", number, tower.vocab_size)


def _known_labels(_request: JobRequest, config: ModelConfig, pictures: Pictures) -> None:
    conditioner = config.conditioner
    check_classes(pictures["image"], conditioner.in_channels if isinstance(conditioner, RescalerConfig) else 0)


def check_below(field: str, value: int | None, bound: int | None) -> None:
    """Check a number against the weights, which have the last word after the card that the gateway asked.

    Raises:
        InvalidRequest: it isn't one of 0 to bound - 1, or the model has none (`bound` None).
    """
    if value is None or bound is None or not 0 <= value < bound:
        limit = "nothing" if bound is None else f"0 to {bound - 1}"
        raise InvalidRequest(f"{field} is {value}; the model has {limit}", field=field, value=value, bound=limit)


def check_text(request: JobRequest, config: ModelConfig) -> None:
    """Check how texts are to be read against the towers that read them.

    Raises:
        InvalidRequest: only CLIP reads so, or the tower has fewer layers.
    """
    text = config.conditioner
    clip = isinstance(text, TextConfig) and text.kind == "clip"
    asked = {"prompt_syntax": request.syntax, "embeddings": request.applied_embeddings}
    for name, value in asked.items():
        if value not in ("plain", ()) and not clip:
            detail = f"{name} is of no use to a model without a text encoder of CLIP"
            raise InvalidRequest(detail, field=name, value=request.model, bound="a model with CLIP")
    if request.skip is not None:
        layers = min(tower.layers for tower in text.towers) if clip and isinstance(text, TextConfig) else None
        if layers is None or not 1 <= request.skip <= layers:
            bound = "nothing" if layers is None else f"1 to {layers}"
            detail = f"clip_skip is {request.skip}; the model has {bound}"
            raise InvalidRequest(detail, field="clip_skip", value=request.skip, bound=bound)


def _as_decoded(_spec: JobSpec, picture: Image.Image) -> Image.Image:
    return picture


def _pasted(spec: JobSpec, picture: Image.Image) -> Image.Image:
    assert isinstance(spec.request, InpaintRequest)
    return paste(spec.pictures["image"], picture, spec.pictures["mask"], spec.request.feather)


def _with_alpha(spec: JobSpec, picture: Image.Image) -> Image.Image:
    return enlarge_alpha(spec.pictures["image"], picture)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """How the engine does one kind of task. `files` are read in their order, each knowing those before it."""

    kind: Kind
    prepare: Callable[[JobSpec, PromptCache], Conditions]
    files: Mapping[str, ReadUpload] = field(default_factory=dict)
    check: Callable[[JobRequest, ModelConfig, Pictures], None] = _anything  # against the weights
    scale: Callable[[LatentDiffusion], int] = _same_size  # pixels of the answer per pixel of the upload
    finish: Callable[[JobSpec, Image.Image], Image.Image] = _as_decoded  # of a picture without its padding


_ALL = (
    EngineKind("txt2img", conditioning.prompted),
    EngineKind(
        "inpaint",
        conditioning.repainted,
        files={"image": as_picture, "mask": as_mask},
        finish=_pasted,
    ),
    EngineKind(
        "upscale",
        conditioning.enlarged,
        files={"image": as_picture},
        scale=_enlarged_size,
        finish=_with_alpha,
    ),
    EngineKind("img2img", conditioning.drawn_over, files={"image": as_picture}),
    EngineKind("class2img", conditioning.classed, check=_known_class),
    EngineKind("semantic2img", conditioning.mapped, files={"image": as_label_map}, check=_known_labels),
    EngineKind(
        "depth2img",
        conditioning.led_by_depth,
        files={"image": as_picture, "depth": as_depth},
    ),
    EngineKind("layout2img", conditioning.laid_out, check=_known_tokens),
)
KINDS: Mapping[Kind, EngineKind] = {kind.kind: kind for kind in _ALL}


def prepare(spec: JobSpec, prompts: PromptCache) -> Conditions:
    """Run the networks that a job needs before its first step, one prompt and one picture at a time.

    Raises:
        CheckpointError: the model lacks what the job's kind needs.
    """
    return KINDS[spec.request.kind].prepare(spec, prompts)


def finish(spec: JobSpec, picture: Image.Image) -> Image.Image:
    """Make the picture that the client gets, of a decoded one without its padding."""
    return KINDS[spec.request.kind].finish(spec, picture)


def read_files(request: JobRequest, files: Mapping[str, bytes]) -> dict[str, Image.Image]:
    """Decode a job's files, by the names of their fields.

    Raises:
        InvalidRequest: a file isn't what the gateway lets pass.
    """
    pictures: dict[str, Image.Image] = {}
    for name, read in KINDS[request.kind].files.items():
        pictures[name] = read(files[name], request, pictures)
    maps = map(control_name, range(len(request.applied_controls)))
    return pictures | {name: open_upload(files[name], ANY_SIZE, name) for name in maps}


def job_spec_of(request: JobRequest, pictures: Pictures, model: LatentDiffusion, max_pixels: int) -> JobSpec:
    """Check and plan a job; `pictures` are its files, as `read_files` reads them.

    Raises:
        InvalidRequest: a sampler, size, class, noise level or picture that it can't use: field, value and bound.
    """
    _check_pictures(request, pictures)
    _check(request, model.config, pictures)
    size = pictures["image"].size if "image" in pictures else (request.width, request.height)
    return _planned(request, model, pictures, size, max_pixels)


def stages_of(
    request: JobRequest, pictures: Pictures, models: Mapping[str, LatentDiffusion], max_pixels: int
) -> list[JobSpec]:
    """Check and plan all stages of a job; later ones lack the pictures that those before them make.

    Raises:
        InvalidRequest: as `job_spec_of`.
    """
    own, *later = stages(request)
    first = job_spec_of(own, pictures, models[own.model], max_pixels)
    return [first, *(_later(stage, first, models[stage.model], max_pixels) for stage in later)]


def _later(request: JobRequest, first: JobSpec, model: LatentDiffusion, max_pixels: int) -> JobSpec:
    """Plan a later stage: what enlarges takes the picture as it is, what draws over it takes it, and maps, larger."""
    kind, size = KINDS[request.kind], (request.width, request.height)
    if kind.scale(model) > 1:
        size = first.frame.width, first.frame.height
    maps = [control_name(number) for number in range(len(request.applied_controls))]
    pictures = {name: first.pictures[name].resize(size, Image.Resampling.LANCZOS) for name in maps}
    _check(request, model.config, pictures)
    spec = _planned(request, model, pictures, size, max_pixels)
    return replace(spec, purpose=f"hires {request.kind} ")


def _check(request: JobRequest, config: ModelConfig, pictures: Pictures) -> None:
    KINDS[request.kind].check(request, config, pictures)
    check_text(request, config)
    if config.low_res_schedule is not None:
        check_below("noise_level", request.class_label, config.unet.num_classes)


def _planned(
    request: JobRequest, model: LatentDiffusion, pictures: Pictures, size: tuple[int, int], max_pixels: int
) -> JobSpec:
    """Plan a job, or a stage of one; `size` is that of its frame."""
    config, scale = model.config, KINDS[request.kind].scale(model)
    check_sides((size[0] * scale, size[1] * scale), request.output_format, max_pixels)
    plan = compile_plan(
        request.sampler, model.schedule, request.steps, request.eta, request.denoising_strength,
        request.schedule, request.timesteps, request.guided_within, request.span,
    )  # fmt: skip
    stride = 2 ** (len(config.unet.channels) - 1)
    frame = Frame(*size, stride * model.latent_factor // scale)
    guided = request.guided and config.guidable and config.unet.guidance_dim is None
    return JobSpec(model, request, plan, frame, scale, pictures, guided)


def _check_pictures(request: JobRequest, pictures: Pictures) -> None:
    for name in KINDS[request.kind].files:
        if name not in pictures:
            raise InvalidRequest(f"{request.kind} needs a file {name}", field=name, value=None, bound="a picture")
    for name in map(control_name, range(len(request.applied_controls))):
        if name not in pictures:
            raise InvalidRequest(f"a control needs its picture {name}", field="controls", value=None, bound="a picture")
        check_control_size(name, pictures[name].size, (request.width, request.height))
