"""Draws the pictures of README, guide and the page's start with the default models: `python -m tests.e2e.draw_guide`.

Seeds are those of the guide, and jobs are strict, so that the same machine draws the same pictures again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentd_client import Client
from PIL import Image, ImageDraw

from tests.modules import ROOT
from tests.service import Service

FOLDER = ROOT / "docs" / "images"
SIDE, GAP = 256, 8
QUALITY = 88  # of WebP: some 10 KB a picture
SEED = 1
PROMPTS = ("red heart", "automobile", "purple heart, 3d style", "rocket")
README = (
    *("red heart", "automobile", "dog face", "parrot", "strawberry", "guitar"),
    *("butterfly", "purple heart, 3d style", "tree", "sunflower", "lion, noto style", "smiling face with sunglasses"),
)
SAMPLES = {  # file → prompt and seed, as service/static/js/stage/stage.js tells them
    "parrot": ("parrot", 5),
    "heart": ("red heart on a navy background", 3),
    "face": ("smiling face with sunglasses", 2),
}
STRENGTHS = (0.4, 0.6, 0.9)
SAMPLERS = (("ddim", 4), ("ddim", 12), ("dpmpp_2m", 10), ("unipc", 8))
WHITE_FROM = 245  # of 255: what is the heart's ground
CORNER = (150, 20, 214, 84)  # where the heart's edge is looked at closely


def draw(client: Client, kind: str, *pictures: Image.Image, seed: int = SEED, **fields: Any) -> Image.Image:
    """The picture of one job."""
    named = dict(zip(("image", "mask"), pictures, strict=False))
    job = client.submit(kind, seed=seed, determinism="strict", **named, **fields)
    return client.images(job)[0].convert("RGB")


def save(name: str, pictures: Sequence[Image.Image]) -> None:
    """Side by side, on a ground that light and dark pages both show."""
    row = Image.new("RGB", (len(pictures) * (SIDE + GAP) - GAP, SIDE), "grey")
    for i, picture in enumerate(pictures):
        row.paste(picture.convert("RGB"), (i * (SIDE + GAP), 0))
    row.save(FOLDER / f"guide-{name}.webp", quality=QUALITY, method=6)


def save_drawn(pictures: Sequence[Image.Image]) -> None:
    """The README's first: six in a row, smaller."""
    side, columns = 160, 6
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), GAP + rows * (side + GAP)), (243, 241, 236))
    for i, picture in enumerate(pictures):
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (GAP + i % columns * (side + GAP), GAP + i // columns * (side + GAP)))
    sheet.save(FOLDER / "drawn.png", optimize=True)


def save_samples(client: Client) -> None:
    """What the page shows before there is a picture."""
    for name, (prompt, seed) in SAMPLES.items():
        picture = draw(client, "txt2img", prompt=prompt, seed=seed).resize((192, 192), Image.Resampling.LANCZOS)
        picture.save(ROOT / "service" / "static" / "samples" / f"{name}.webp", quality=QUALITY, method=6)


def rough_face() -> Image.Image:
    """What somebody draws in a minute."""
    face = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(face)
    pen.ellipse((38, 38, 218, 218), fill=(250, 200, 40))
    for left in (88, 148):
        pen.ellipse((left, 95, left + 20, 125), fill=(80, 50, 20))
    pen.arc((88, 120, 168, 180), 20, 160, fill=(80, 50, 20), width=8)
    return face


def ground_of(picture: Image.Image) -> Image.Image:
    """A mask of what is white around a thing."""
    return picture.convert("L").point(lambda value: 255 if value > WHITE_FROM else 0)


def closer(picture: Image.Image) -> Image.Image:
    return picture.crop(CORNER).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def draw_repainting(client: Client, heart: Image.Image) -> None:
    mask = ground_of(heart)
    navy = draw(client, "inpaint", heart, mask, prompt="red heart on a navy background", feather=3)
    hard = draw(client, "inpaint", heart, mask, prompt="red heart on a navy background")
    purple = draw(client, "inpaint", heart, mask, prompt="purple heart", mask_mode="black")
    green = draw(client, "inpaint", heart, mask, prompt="red heart on a green background", feather=3)
    save("repaint", (heart, mask, navy, green))
    save("masks", (mask, hard, purple))
    save("feather", (closer(mask), closer(hard), closer(navy)))


def draw_enlarging(client: Client, car: Image.Image) -> None:
    small = car.resize((SIDE // 4, SIDE // 4), Image.Resampling.LANCZOS)
    plain = [small.resize((SIDE, SIDE), way) for way in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)]
    save("upscale", (*plain, draw(client, "upscale", small)))


def main() -> None:
    with Service() as service, Client(service.url) as client:
        drawn = {prompt: draw(client, "txt2img", prompt=prompt) for prompt in PROMPTS}
        save("text", tuple(drawn.values()))
        save_drawn([draw(client, "txt2img", prompt=prompt) for prompt in README])
        save_samples(client)
        face = rough_face()
        over = [draw(client, "img2img", face, prompt="smiling face, 3d style", strength=each) for each in STRENGTHS]
        save("picture", (face, *over))
        draw_repainting(client, drawn["red heart"])
        draw_enlarging(client, drawn["automobile"])
        ways = [draw(client, "txt2img", prompt="rocket", sampler=name, steps=steps) for name, steps in SAMPLERS]
        save("samplers", ways)


if __name__ == "__main__":
    main()
