"""The stages of a job: what is drawn first, and what then draws over what the stage before it made, larger."""

from __future__ import annotations

from contract.add_ons import AppliedUpscaler, Hires
from contract.common import BaseRequest
from contract.request import Img2ImgRequest, JobRequest, Txt2ImgRequest, UpscaleRequest
from contract.uploads import Upload

_MADE = Upload(path="", sha256="", bytes=0, width=0, height=0)  # stands for what the stage before made


def stages(request: JobRequest) -> tuple[JobRequest, ...]:
    """Return a job's stages as the requests that they amount to; most jobs have one, their own."""
    if not isinstance(request, Txt2ImgRequest) or request.hires is None:
        return (request,)
    hires, first = request.hires, request.model_copy(update={"hires": None})
    between = () if hires.enlarged_by is None else (_enlarging(first, hires.enlarged_by),)
    return (first, *between, _drawing_over(first, hires))


def models_of(request: JobRequest) -> tuple[str, ...]:
    """Return the models that a job needs together, the one whose queue it is in first."""
    by = upscaler_of(request)
    return (request.model,) if by is None else (request.model, by.id)


def upscaler_of(request: JobRequest) -> AppliedUpscaler | None:
    """Return the model that enlarges between a job's passes."""
    hires = request.hires if isinstance(request, Txt2ImgRequest) else None
    return None if hires is None else hires.enlarged_by


def share_done(request: JobRequest, step: int, steps: int) -> float:
    """Return how much of a job's computing `step` of `steps` is, of 0 to 1: those of a larger stage take longer.

    `steps` are those that the job has, where a worker has told them, and `run_steps` else.
    """
    done, left = 0.0, step * request.run_steps / steps
    parts = [(stage.run_steps, stage.width * stage.height) for stage in stages(request)]
    for steps, pixels in parts:
        done += min(steps, max(0.0, left)) * pixels
        left -= steps
    return done / sum(steps * pixels for steps, pixels in parts)


def _enlarging(first: Txt2ImgRequest, by: AppliedUpscaler) -> UpscaleRequest:
    """What concerns the job is as before; what is drawn, and how, is the model's alone. Its answer is no file."""
    values = {name: value for name, value in first if name in BaseRequest.model_fields}
    values |= by.model_dump(exclude={"id", "hash", "scale"}) | {"kind": "upscale", "model": by.id, "timesteps": None}
    values |= {"output_format": "png"}  # which has no bound that the job's own size, in its format, hasn't
    size = {"width": first.width * by.scale, "height": first.height * by.scale}
    return UpscaleRequest(**values | size, image=_MADE)


def _drawing_over(first: Txt2ImgRequest, hires: Hires) -> Img2ImgRequest:
    width, height = hires.size(first.width, first.height)
    values = {name: value for name, value in first if name in Img2ImgRequest.model_fields}
    values |= {"kind": "img2img", "width": width, "height": height, "steps": hires.steps, "strength": hires.strength}
    return Img2ImgRequest(**values, image=_MADE)
