"""The real `openai` and `webuiapi` packages against a whole service with the default weights, without keys and with."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
import webuiapi
from PIL import Image
from redis import Redis

from core.pictures import lossless
from core.settings import WEIGHTS_DIR, Settings
from service.auth import keys
from tests.gateway import png
from tests.service import Service

NAVY = (20, 40, 90)
STEPS = {"steps": 3, "seed": 7}
MODEL = f"emoji [{json.loads((WEIGHTS_DIR / 'emoji' / 'card.json').read_bytes())['hash'][:10]}]"


@pytest.fixture
def token(service: Service) -> Iterator[str]:
    """A key; with it keys are on until the test's end."""
    settings = Settings.model_validate({"data_dir": service.folder / "data"})
    with Redis.from_url(settings.redis) as redis:
        yield keys.create(redis, "client", ["generate", "read"])[1]
        keys.remove_all(redis)


@pytest.fixture
def images(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def webui(service: Service) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{service.url}/sdapi/v1", sampler="DPM++ 2M", steps=3)


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def picture(size: tuple[int, int] = (200, 160)) -> Image.Image:
    return Image.new("RGB", size, NAVY)


def mask(inside: object, outside: object, mode: str) -> Image.Image:
    """A mask of (200, 160) whose rectangle (50, 40)–(120, 120) is inside."""
    drawn = Image.new(mode, (200, 160), outside)  # type: ignore[arg-type]
    drawn.paste(inside, (50, 40, 120, 120))  # type: ignore[arg-type]
    return drawn


def test_openai_lists_models_and_generates_urls(images: openai.OpenAI) -> None:
    assert [model.id for model in images.models.list()] == ["emoji", "emoji-upscale"]
    assert images.models.retrieve("emoji").owned_by == "latentd"
    raw = images.images.with_raw_response.generate(
        prompt="red heart", n=2, size="256x256", quality="high", user="me", style="vivid", extra_body=STEPS
    )
    assert all(f'"{field}"' in raw.headers["latentd-warnings"] for field in ("quality", "user", "style"))
    answer = raw.parse()
    assert (answer.size, answer.output_format, answer.usage and answer.usage.input_tokens) == ("256x256", "png", 4)
    assert answer.data is not None
    urls = [image.url for image in answer.data]
    assert all(url is not None and url.startswith(str(images.base_url).removesuffix("v1/")) for url in urls)
    files = [httpx2.get(str(url), timeout=60).content for url in urls]
    assert len(set(files)) == 2
    assert Image.open(io.BytesIO(files[0])).size == (256, 256)


def test_openai_answers_base64_for_names_of_its_own_models(images: openai.OpenAI) -> None:
    raw = images.images.with_raw_response.generate(
        prompt="red heart", model="gpt-image-1", output_format="webp", extra_body=STEPS
    )
    answer = raw.parse()
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).format == "WEBP"
    assert "gpt-image-1 isn't served here" in raw.headers["latentd-warnings"]


def test_openai_streams_partial_images(images: openai.OpenAI) -> None:
    stream = images.images.generate(prompt="red heart", stream=True, partial_images=2, size="256x256")
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    partial, last = events[0], events[-1]
    assert partial.type == "image_generation.partial_image"
    assert partial.partial_image_index == 0
    assert opened(partial.b64_json).format == "PNG"
    assert last.type == "image_generation.completed"
    assert (opened(last.b64_json).size, last.usage.total_tokens) == ((256, 256), 4)


def test_openai_edits_what_is_transparent(images: openai.OpenAI) -> None:
    clear = lossless(mask((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"))
    answer = images.images.edit(
        image=("image.png", lossless(picture())),
        mask=("mask.png", clear),
        prompt="red heart",
        response_format="b64_json",
        extra_body=STEPS,
    )
    assert answer.data is not None
    painted = opened(answer.data[0].b64_json)
    assert painted.size == (200, 160)
    assert painted.getpixel((10, 10)) == NAVY
    assert painted.getpixel((85, 80)) != NAVY


def test_openai_edits_a_picture_s_own_transparency_and_whole_pictures(images: openai.OpenAI) -> None:
    own = picture().convert("RGBA")
    own.putalpha(mask(0, 255, "L"))
    kept = {"prompt": "red heart", "response_format": "b64_json", "extra_body": STEPS}
    edit: Any = images.images.edit
    answers = [
        edit(image=[("own.png", lossless(own))], **kept),
        edit(image=[("whole.png", lossless(picture()))], size="128x128", **kept),
    ]
    masked, whole = (opened(answer.data[0].b64_json) for answer in answers)
    assert masked.convert("RGB").getpixel((10, 10)) == NAVY
    assert masked.convert("RGB").getpixel((85, 80)) != NAVY
    assert whole.size == (128, 128)
    assert whole.convert("RGB").getpixel((10, 10)) != NAVY


def test_openai_s_errors_are_those_of_its_client(images: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="auto, or WIDTHxHEIGHT") as wrong:
        images.images.generate(prompt="x", size="3x")
    assert (wrong.value.param, wrong.value.code) == ("size", "invalid_request")
    with pytest.raises(openai.NotFoundError, match="known models: emoji") as unknown:
        images.images.generate(prompt="x", model="nope")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="2 images were sent"):
        images.images.edit(image=[("a.png", png()), ("b.png", png())], prompt="x")


def test_openai_with_keys(service: Service, images: openai.OpenAI, token: str) -> None:
    with pytest.raises(openai.AuthenticationError, match="latentd keys create"):
        images.images.generate(prompt="red heart")
    keyed = images.with_options(api_key=token)
    answer = keyed.images.generate(prompt="red heart", extra_body=STEPS)
    assert answer.data is not None
    url = str(answer.data[0].url)
    assert httpx2.get(url, timeout=60).status_code == 200  # signed: whoever has the URL
    assert httpx2.get(url.partition("?")[0], timeout=60).status_code == 401
    assert next(iter(keyed.models.list())).id == "emoji"
    events = list(keyed.images.generate(prompt="red heart", stream=True, extra_body=STEPS))
    assert events[-1].type == "image_generation.completed"
    assert service.client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_webui_draws_from_words(webui: webuiapi.WebUIApi) -> None:
    answer = webui.txt2img(
        prompt="red heart", negative_prompt="hat", seed=3, width=256, height=256, batch_size=2, cfg_scale=4
    )
    assert [image.size for image in answer.images] == [(256, 256)] * 2
    assert (answer.info["all_seeds"], answer.info["sampler_name"]) == ([3, 4], "DPM++ 2M")
    assert answer.info["infotexts"][1].startswith("red heart\nNegative prompt: hat\nSteps: 3, ")
    assert answer.parameters["prompt"] == "red heart"
    told = webui.png_info(answer.images[0])
    assert told.info == answer.info["infotexts"][0]
    assert told.parameters["Size-1"] == "256"
    assert told.parameters["Negative prompt"] == "hat"


def test_webui_repaints_the_masked_region_of_a_picture(webui: webuiapi.WebUIApi) -> None:
    white = mask(255, 0, "L")
    kept: dict[str, Any] = {"mask_image": white, "prompt": "red heart", "width": 256, "height": 256}
    region = webui.img2img([picture()], inpaint_full_res_padding=16, mask_blur=4, **kept).image
    assert region.size == (200, 160)
    assert region.getpixel((85, 80)) != NAVY
    outside = [(x, y) for x in (0, 44, 126, 199) for y in (0, 34, 126, 159)]
    assert all(region.getpixel(at) == NAVY for at in outside)
    assert region.text["parameters"].startswith("red heart\nSteps: 3")
    inverted = webui.img2img([picture()], inpainting_mask_invert=1, inpaint_full_res=False, mask_blur=0, **kept).image
    assert inverted.size == (256, 256)
    assert inverted.getpixel((105, 125)) == NAVY
    assert inverted.getpixel((10, 10)) != NAVY


@pytest.mark.parametrize("fill", [0, 1, 2, 3])
def test_webui_fills_what_is_masked(webui: webuiapi.WebUIApi, fill: int) -> None:
    answer = webui.img2img(
        [picture()],
        mask_image=mask(255, 0, "L"),
        prompt="red heart",
        steps=1,
        inpainting_fill=fill,
        inpaint_full_res=False,
        width=200,
        height=160,
    )
    assert answer.image.getpixel((10, 10)) == NAVY


def test_webui_draws_over_a_picture_brought_to_a_size(webui: webuiapi.WebUIApi) -> None:
    answer = webui.img2img([picture()], prompt="red heart", resize_mode=2, width=128, height=128)
    assert answer.image.size == (128, 128)


def test_webui_enlarges(webui: webuiapi.WebUIApi) -> None:
    small = picture((48, 32))
    model = webui.extra_single_image(small, upscaler_1="emoji-upscale", upscaling_resize=3)
    assert model.image.size == (144, 96)
    both = webui.extra_batch_images([small, picture()], upscaler_1="Lanczos", upscaling_resize=1.5)
    assert [image.size for image in both.images] == [(72, 48), (300, 240)]
    cover = webui.extra_single_image(
        small, upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=96, upscaling_resize_h=96, upscaling_crop=False
    )
    assert cover.image.size == (144, 96)
    assert webui.extra_single_image(small).image.size == (48, 32)


def test_webui_reads_what_there_is(webui: webuiapi.WebUIApi) -> None:
    assert webui.util_get_model_names() == [MODEL]
    assert webui.util_get_current_model() == MODEL
    assert {"Euler", "DPM++ 2M", "DDIM", "UniPC"} <= set(webui.util_get_sampler_names())
    assert "automatic" in webui.util_get_scheduler_names()
    assert [item["name"] for item in webui.get_upscalers()] == ["None", "Lanczos", "Nearest", "emoji-upscale"]
    assert webui.get_cmd_flags()["api"] is True
    empty = [webui.get_sd_vae, webui.get_hypernetworks, webui.get_face_restorers, webui.get_realesrgan_models]
    assert [read() for read in [*empty, webui.get_prompt_styles]] == [[]] * 5
    assert webui.get_latent_upscale_modes() == [{"name": "Latent"}]
    assert webui.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert webui.get_scripts() == {"txt2img": [], "img2img": []}
    assert webui.get_memory()["ram"]["total"] > 0
    assert isinstance(webui.get_loras(), list)
    assert webui.refresh_checkpoints() is None
    assert webui.custom_get("internal/ping") == {}
    webui.util_wait_for_ready()


def test_webui_s_options_are_nobody_s_to_set(webui: webuiapi.WebUIApi) -> None:
    webui.util_set_model("emoji")  # as it is
    assert webui.set_options({"sd_model_checkpoint": "emoji"}) is None
    refused = webui.set_options({"CLIP_stop_at_last_layers": 2})
    assert set(refused) == {"error", "detail", "body", "errors"}
    assert "options are read here and never set" in refused["detail"]
    answer = webui.txt2img(prompt="cat", width=64, height=64, override_settings={"sd_model_checkpoint": "emoji"})
    assert answer.info["sd_model_name"] == "emoji"
    with pytest.raises(RuntimeError, match=r"Euler z.*not found; model emoji runs DPM") as wrong:
        webui.txt2img(prompt="x", sampler_name="Euler z")
    assert wrong.value.args[0] == 422


def test_webui_sees_and_interrupts_what_it_draws(webui: webuiapi.WebUIApi) -> None:
    answers: list[Any] = []
    drawing = threading.Thread(
        target=lambda: answers.append(webui.txt2img(prompt="cat", width=256, height=256, steps=1000))
    )
    drawing.start()
    until, seen = time.monotonic() + 60, webui.get_progress()
    while seen["current_image"] is None and time.monotonic() < until:
        time.sleep(0.05)
        seen = webui.get_progress()
    assert 0 < seen["progress"] < 1
    assert (seen["state"]["job_count"], seen["state"]["sampling_steps"]) == (1, 1000)
    assert opened(seen["current_image"]).size == (256, 256)
    assert webui.interrupt() == {}
    drawing.join(60)
    assert answers[0].images == []
    assert webui.get_progress()["state"]["job_count"] == 0


def test_webui_with_keys(service: Service, webui: webuiapi.WebUIApi, token: str) -> None:
    refused = service.client.get("/sdapi/v1/progress")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    with pytest.raises(RuntimeError, match="latentd keys create"):
        webui.txt2img(prompt="x")
    webui.set_auth("anyone", token)
    answer = webui.txt2img(prompt="red heart", width=64, height=64)
    assert answer.image.size == (64, 64)
    assert webui.get_progress()["progress"] == 0.0
