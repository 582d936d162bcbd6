"""POST /sdapi/v1/txt2img, img2img, extra-single-image, extra-batch-images and png-info."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from core.errors import Problem
from service.compat.a1111.answers import (
    ExtraBatchAnswer,
    ExtraSingleAnswer,
    ImagesAnswer,
    PngInfoAnswer,
    error_response,
)
from service.compat.a1111.draw import Drawing, img2img, txt2img
from service.compat.a1111.extras import enlarged
from service.compat.a1111.ignored import ignored
from service.compat.a1111.infotext import parse, read_texts
from service.compat.a1111.pictures import PARAMETERS
from service.compat.a1111.posts import (
    DrawingPost,
    ExtraBatchPost,
    ExtraSinglePost,
    Img2ImgSent,
    PngInfoPost,
    Txt2ImgSent,
)
from service.compat.a1111.results import images_answer
from service.compat.a1111.routes.document import answers, body
from service.compat.attended import Session, attend
from service.compat.fields import decoded, read_json
from service.compat.files import all_as_base64, json_of
from service.http.bodies import HOLD
from service.http.warnings import warning_headers
from service.jobs.images import fault
from service.requests.kinds import EXAMPLE_PICTURE
from service.routes.caller import CurrentCaller
from service.state import Current

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
WAITED = answers(400, 404, 408, 409, 410, 413, 415, 500, 504, 507)  # of calls that read pictures and wait for a job


@router.post(
    "/txt2img",
    name="a1111_txt2img",
    summary="Text to image, as the web UI's",
    response_model=ImagesAnswer,
    responses=WAITED,
    openapi_extra=body(Txt2ImgSent, prompt="red heart", steps=12),
)
async def draw(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the job."""
    caller.check_reads()
    post = await read_json(request, Txt2ImgSent, strict=False)
    drawing = await txt2img(gateway, post)
    return await _drawn(Session(gateway, caller, request.is_disconnected), post, drawing)


@router.post(
    "/img2img",
    name="a1111_img2img",
    summary="Draw over or repaint a picture, as the web UI's",
    response_model=ImagesAnswer,
    responses=WAITED,
    openapi_extra=body(Img2ImgSent, prompt="red heart", denoising_strength=0.6, init_images=[EXAMPLE_PICTURE]),
)
async def draw_over(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the job."""
    caller.check_reads()
    post = await read_json(request, Img2ImgSent, strict=False)
    drawing = await img2img(gateway, post)
    if not post.include_init_images:  # a call that waits for minutes holds none
        post = post.model_copy(update={"init_images": [], "mask": None})
    return await _drawn(Session(gateway, caller, request.is_disconnected), post, drawing)


async def _drawn(asked: Session, post: DrawingPost, drawing: Drawing) -> Response:
    job = await attend(asked, drawing.body)
    warnings = (*drawing.warnings, *job.warnings)
    if (problem := fault(job)) is not None:
        return error_response(problem, warning_headers(warnings))
    return await json_of(await images_answer(asked, post, drawing, job), warning_headers(warnings))


@router.post(
    "/extra-single-image",
    name="a1111_extra_single",
    summary="Enlarge a picture, as the web UI's",
    response_model=ExtraSingleAnswer,
    responses=WAITED,
    openapi_extra=body(ExtraSinglePost, upscaler_1="Lanczos", upscaling_resize=2, image=EXAMPLE_PICTURE),
)
async def extra_single(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the job."""
    caller.check_reads()
    post = await read_json(request, ExtraSinglePost, strict=False)
    session = Session(gateway, caller, request.is_disconnected)
    files = await enlarged(session, post, [post.image], request.scope[HOLD])
    if isinstance(files, Problem):
        return error_response(files, {})
    (image,) = await all_as_base64(files)
    return await json_of(ExtraSingleAnswer(html_info="", image=image), warning_headers(ignored(post.extras)))


@router.post(
    "/extra-batch-images",
    name="a1111_extra_batch",
    summary="Enlarge pictures, as the web UI's",
    response_model=ExtraBatchAnswer,
    responses=WAITED,
    openapi_extra=body(ExtraBatchPost, upscaler_1="Lanczos", imageList=[{"data": EXAMPLE_PICTURE}]),
)
async def extra_batch(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the jobs."""
    caller.check_reads()
    post = await read_json(request, ExtraBatchPost, strict=False)
    pictures = [file.data for file in post.imageList]
    session = Session(gateway, caller, request.is_disconnected)
    files = await enlarged(session, post, pictures, request.scope[HOLD])
    if isinstance(files, Problem):
        return error_response(files, {})
    answer = ExtraBatchAnswer(html_info="", images=await all_as_base64(files))
    return await json_of(answer, warning_headers(ignored(post.extras)))


@router.post(
    "/png-info",
    name="a1111_png_info",
    summary="What a PNG says of how it was made",
    response_model=PngInfoAnswer,
    responses=answers(400, 408, 413, 415),
    openapi_extra=body(PngInfoPost, image=EXAMPLE_PICTURE),
)
async def png_info(request: Request) -> Response:
    post = await read_json(request, PngInfoPost)
    return await asyncio.to_thread(_told_of, await decoded("image", post.image))


def _told_of(data: bytes) -> Response:
    texts = read_texts(data)
    info = texts.get(PARAMETERS, "")
    return JSONResponse(PngInfoAnswer(info=info, items=texts, parameters=parse(info)).model_dump(mode="json"))
