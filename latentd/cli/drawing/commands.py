"""`latentd generate`, `inpaint`, `upscale` and the commands of the other tasks: their options, put into an order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentd.cli.console import Json
from latentd.cli.drawing.draw import draw
from latentd.cli.drawing.options import (
    Controls,
    Count,
    Device,
    Eta,
    Force,
    Guidance,
    Interval,
    Lora,
    Model,
    Negative,
    Out,
    Prompt,
    Sampler,
    Schedule,
    Seed,
    Server,
    Skip,
    Steps,
    Strength,
    Syntax,
    read_boxes,
    read_controls,
    read_texts,
)
from latentd.cli.drawing.order import Order

if TYPE_CHECKING:
    from contract.base import Kind

NONE: list[str] = []  # of an option that may be repeated; typer copies it


def generate(
    prompt: Prompt = None,
    out: Out = Path("generate.png"),
    model: Model = None,
    class_id: Annotated[int | None, typer.Option(help="Number of the class, for a model of classes.")] = None,
    label: Annotated[str | None, typer.Option(help="Its name, where the model's card has names.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    lora: Lora = NONE,
    control: Controls = NONE,
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    hires: Annotated[float | None, typer.Option(help="Draw once more, over the picture enlarged so much.")] = None,
    hires_strength: Annotated[float | None, typer.Option(help="How much of that is forgotten, up to 1.")] = None,
    hires_steps: Annotated[int | None, typer.Option(help="Steps of it. Default: as before.")] = None,
    hires_upscaler: Annotated[str | None, typer.Option(help="lanczos, latent or a model that upscales.")] = None,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw a picture from a text; from a class, or from nothing, where the model reads no text."""
    kind: Kind = "txt2img" if class_id is None and label is None else "class2img"
    controls, files = read_controls(control)
    fields: dict[str, Any] = dict(prompt=prompt, class_id=class_id, label=label, width=width, height=height)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images) | read_texts(lora, prompt_syntax, clip_skip) | controls
    second = dict(scale=hires, strength=hires_strength, steps=hires_steps, upscaler=hires_upscaler)
    fields["hires"] = {name: value for name, value in second.items() if value is not None} or None
    draw(Order(kind, fields, files, out, force, json), server, device)


def inpaint(
    image: Path,
    mask: Path,
    prompt: Prompt = None,
    out: Out = Path("inpaint.png"),
    model: Model = None,
    mask_mode: Annotated[
        str, typer.Option(help="white, black, alpha or auto: which mask pixels are repainted.")
    ] = "white",
    feather: Annotated[int, typer.Option(help="Pixels outside the mask that may blend.")] = 0,
    strength: Strength = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    lora: Lora = NONE,
    control: Controls = NONE,
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Repaint the masked part of a picture; every other pixel stays as it is."""
    controls, files = read_controls(control)
    fields: dict[str, Any] = dict(prompt=prompt, mask_mode=mask_mode, feather=feather, strength=strength)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images) | read_texts(lora, prompt_syntax, clip_skip) | controls
    draw(Order("inpaint", fields, {"image": image, "mask": mask, **files}, out, force, json), server, device)


def img2img(
    image: Path,
    prompt: Prompt = None,
    out: Out = Path("img2img.png"),
    model: Model = None,
    strength: Strength = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option(help="How much is kept of it by a model that edits (InstructPix2Pix), 1–50.")
    ] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    lora: Lora = NONE,
    control: Controls = NONE,
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw over a picture, of which as much is kept as the strength leaves; or change it as the prompt says."""
    controls, files = read_controls(control)
    fields: dict[str, Any] = dict(prompt=prompt, strength=strength, image_guidance_scale=image_guidance_scale)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images) | read_texts(lora, prompt_syntax, clip_skip) | controls
    draw(Order("img2img", fields, {"image": image, **files}, out, force, json), server, device)


def depth2img(
    image: Path,
    depth: Annotated[Path, typer.Argument(help="A grey picture of the image's size, the nearer the brighter.")],
    prompt: Prompt = None,
    out: Out = Path("depth2img.png"),
    model: Model = None,
    strength: Strength = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    lora: Lora = NONE,
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw over a picture, led by how near each of its pixels is."""
    fields: dict[str, Any] = dict(prompt=prompt, strength=strength)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images) | read_texts(lora, prompt_syntax, clip_skip)
    draw(Order("depth2img", fields, {"image": image, "depth": depth}, out, force, json), server, device)


def semantic2img(
    image: Annotated[Path, typer.Argument(help="A PNG of one channel whose pixels are numbers of classes.")],
    out: Out = Path("semantic2img.png"),
    model: Model = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw a picture from a map of classes, at its size."""
    fields: dict[str, Any] = dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images)
    draw(Order("semantic2img", fields, {"image": image}, out, force, json), server, device)


def layout2img(
    boxes: Annotated[Path, typer.Argument(help="JSON: a list of boxes as POST /v1/layout2img has them.")],
    out: Out = Path("layout2img.png"),
    model: Model = None,
    width: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw a picture from boxes with their classes."""
    fields: dict[str, Any] = dict(boxes=read_boxes(boxes), width=width, height=height)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= dict(num_images=num_images)
    draw(Order("layout2img", fields, {}, out, force, json), server, device)


def upscale(
    image: Path,
    prompt: Prompt = None,
    out: Out = Path("upscale.png"),
    model: Model = None,
    noise_level: Annotated[int | None, typer.Option(help="Noise put over the picture first, 0–999.")] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    lora: Lora = NONE,
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    server: Server = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a picture four times as large."""
    fields: dict[str, Any] = dict(prompt=prompt, noise_level=noise_level, negative_prompt=negative_prompt)
    fields |= dict(guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    fields |= dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    fields |= read_texts(lora, prompt_syntax, clip_skip)
    draw(Order("upscale", fields, {"image": image}, out, force, json), server, device)


def register(app: typer.Typer) -> None:
    for command in (generate, inpaint, img2img, depth2img, semantic2img, layout2img, upscale):
        app.command()(command)
