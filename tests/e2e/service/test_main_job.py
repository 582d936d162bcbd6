"""The main job on the default checkpoints, as a newcomer does it: start, post, look; repaint; upscale; stop."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from core.pictures import lossless
from tests.service import Service


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def is_red(pixel: tuple[int, ...]) -> bool:
    return pixel[0] > 150 and pixel[1] < 110 and pixel[2] < 110


def is_white(pixel: tuple[int, ...]) -> bool:
    return min(pixel[:3]) > 225


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.convert("RGB").getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def test_red_heart_is_red_on_white(service: Service) -> None:
    job = service.post("/v1/txt2img", prompt="red heart", seed=1)
    image = opened(service.image(job))
    assert (job["status"], image.size, image.format) == ("succeeded", (256, 256), "PNG")
    assert is_red(pixel(image, 128, 128))
    assert all(is_white(pixel(image, x, y)) for x in (4, 251) for y in (4, 251))
    assert "red heart" in image.info["parameters"]


def test_inpaint_keeps_every_pixel_outside_the_mask(service: Service) -> None:
    upload = Image.effect_noise((200, 120), 64).convert("RGB")
    mask = Image.new("L", upload.size)
    ImageDraw.Draw(mask).ellipse((60, 20, 140, 100), fill=255)
    fields = {"prompt": "red heart", "seed": "3", "steps": "8"}
    files = {"image": ("a.png", lossless(upload), "image/png"), "mask": ("m.png", lossless(mask), "image/png")}
    answer = service.client.post("/v1/inpaint", data=fields, files=files, headers={"Prefer": "wait=100"})
    assert answer.status_code == 200, answer.text
    painted = opened(service.image(answer.json()))
    assert painted.size == upload.size
    outside = mask.point(lambda value: 0 if value else 255)
    black = Image.new("RGB", upload.size)
    assert Image.composite(painted.convert("RGB"), black, outside).tobytes() == (
        Image.composite(upload, black, outside).tobytes()
    )
    assert painted.convert("RGB").tobytes() != upload.tobytes()


def test_upscale_makes_any_size_four_times_as_large(service: Service) -> None:
    small = Image.linear_gradient("L").resize((100, 75)).convert("RGB")
    files = {"image": ("small.png", lossless(small), "image/png")}
    answer = service.client.post("/v1/upscale", files=files, headers={"Prefer": "wait=100", "Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    assert opened(answer.content).size == (400, 300)


def test_the_gateway_holds_no_torch(service: Service) -> None:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in service.processes()}
    (gateway,) = [pid for pid, command in commands.items() if b"gateway" in command]
    (worker,) = [pid for pid, command in commands.items() if b"worker" in command]
    assert "libtorch" not in Path(f"/proc/{gateway}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{worker}/maps").read_text()


def test_starts_soon_and_stops_without_a_trace() -> None:
    service = Service()
    seconds = service.start()
    children = service.processes()
    assert len(children) == 3
    service.stop()
    service.client.close()
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert seconds < 30, "15 s on an idle machine"
