"""A job's pictures as the web UI answers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from contract.events import Preview
from contract.job import Job
from contract.request import JobRequest, Txt2ImgRequest
from core.version import __version__
from service.compat.a1111.answers import ImagesAnswer, ProgressAnswer, ProgressState
from service.compat.a1111.catalog import HASH_CHARACTERS
from service.compat.a1111.draw import Drawing
from service.compat.a1111.pictures import grid, parameters_of, whole_picture
from service.compat.a1111.posts import DrawingPost, Img2ImgSent
from service.compat.a1111.samplers import name_of
from service.compat.attended import Session
from service.compat.files import all_as_base64, as_base64, opened, read_images, written
from service.jobs.events import read_previews
from service.state import Gateway

PICTURES = frozenset(("init_images", "mask"))


async def images_answer(session: Session, post: DrawingPost, drawing: Drawing, job: Job) -> ImagesAnswer:
    """Write the images of a job that has ended; one that was interrupted has none. Raises as `read_images`."""
    files = await read_images(session.gateway, session.caller, job)
    if drawing.region is not None:
        files = [await asyncio.to_thread(whole_picture, file, drawing.region) for file in files]
    card = await session.gateway.cards.choose(job.kind, job.request.model)
    info = _info(job.request, card.hash[:HASH_CHARACTERS], [parameters_of(file) for file in files])
    wanted = post.send_images is None or bool(post.send_images)
    images = await all_as_base64(files) if wanted else []
    return ImagesAnswer(images=images, parameters=_echo(post), info=json.dumps(info, ensure_ascii=False))


def _echo(post: DrawingPost) -> dict[str, Any]:
    whole = isinstance(post, Img2ImgSent) and bool(post.include_init_images)
    sent: Mapping[str, Any] = post.model_dump(mode="json")
    return {name: value for name, value in sent.items() if whole or name not in PICTURES}


def _info(request: JobRequest, model_hash: str, infotexts: Sequence[str]) -> dict[str, Any]:
    count, hires = request.num_images, request.hires if isinstance(request, Txt2ImgRequest) else None
    return {
        "prompt": request.text,
        "all_prompts": [request.text] * count,
        "negative_prompt": request.negative_text,
        "all_negative_prompts": [request.negative_text] * count,
        "seed": request.seed,
        "all_seeds": request.seeds,
        "subseed": request.seed,
        "all_subseeds": request.seeds,
        "subseed_strength": 0,
        "width": request.width,
        "height": request.height,
        "sampler_name": name_of(request.sampler),
        "cfg_scale": request.guidance,
        "steps": request.steps,
        "batch_size": count,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request.model,
        "sd_model_hash": model_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.denoising_strength if hires is None else hires.strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": "0",
        "clip_skip": request.skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"latentd {__version__}",
    }


async def progress_answer(gateway: Gateway, job: Job | None, count: int, picture: bool) -> ProgressAnswer:
    """Write how far a job is; nothing is drawn without one."""
    if job is None:
        return ProgressAnswer()
    step, steps, one = job.progress.step, job.progress.steps, max(1, job.progress.steps // job.request.num_images)
    previews = await read_previews(gateway.redis, job.id) if picture else {}
    state = ProgressState(
        job=job.id,
        job_count=count,
        job_timestamp=f"{job.created_at:%Y%m%d%H%M%S}",
        sampling_step=min(one, step // job.request.num_images),
        sampling_steps=one,
    )
    return ProgressAnswer(
        progress=min(1.0, max(0.01, step / max(1, steps))),  # 0 says that nothing is drawn
        eta_relative=job.eta_s or 0.0,
        state=state,
        current_image=await asyncio.to_thread(_grid, previews, job.request.num_images) if previews else None,
    )


def _grid(previews: Mapping[int, Preview], pictures: int) -> str:
    """Lay the previews of a job out as the web UI shows those of a batch, as PNG in base64."""
    return as_base64(written(grid({index: opened(each) for index, each in previews.items()}, pictures), "png"))
