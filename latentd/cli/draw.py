"""Commands that draw without any server, one a kind of task. Same rules and engine as the service."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import ConfigurationError, InvalidRequest
from core.settings import Settings
from latentd.cli.console import Json, plain, print_json
from latentd.cli.environment import check_model
from latentd.cli.outputs import FORMATS, check_out, paths_for, write_file
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from PIL.Image import Image

    from contract.base import Kind
    from contract.card import ModelCard
    from contract.job import JobWarning
    from contract.request import JobRequest
    from service.requests.bodies import Body
    from service.requests.resolution import Known

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="File to write: .png, .jpg or .webp. Several images get -0, -1, …; a name that is taken is counted on.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]
Prompt = Annotated[str | None, typer.Argument(help="What the picture shows; none for a model that reads no text.")]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint. Default: LATENTD_MODEL if it can, else the first that can.")
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps, 1–1000. Default: the model's.")]
Sampler = Annotated[str | None, typer.Option(help="Sampler. Default: the model's.")]
Eta = Annotated[float | None, typer.Option(help="ddim's share of fresh noise, 0–1; tcd's γ.")]
Schedule = Annotated[str | None, typer.Option(help="Noise levels: karras, normal, … Default: the model's.")]
Interval = Annotated[
    tuple[float, float] | None,
    typer.Option("--guidance-interval", help="Guide between these shares of the noise levels, 0–1 each."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the first image; drawn and shown if absent or -1.")]
Count = Annotated[int, typer.Option("--num-images", "-n", help="Images to make, 1–16.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale, 0–50; 0 and 1: none. Default: the model's.")]
Negative = Annotated[str | None, typer.Option(help="What the picture must not show.")]
Lora = Annotated[
    list[str], typer.Option("--lora", help="A LoRA and its scale, as ID:0.8; alone it has scale 1. Repeatable.")
]
Syntax = Annotated[
    str, typer.Option("--prompt-syntax", help="plain, or weighted: (word:1.2), [word], BREAK, <lora:id:0.8>.")
]
Skip = Annotated[
    int | None, typer.Option("--clip-skip", help="Layer of CLIP, from the last, that is read; 1 is the last.")
]
Strength = Annotated[float | None, typer.Option(help="How much of the picture is forgotten, up to 1.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")]


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
    lora: Lora = [],  # noqa: B006 (typer copies it)
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw a picture from a text; from a class, or from nothing, where the model reads no text."""
    kind: Kind = "txt2img" if class_id is None and label is None else "class2img"
    fields: dict[str, Any] = dict(
        prompt=prompt, class_id=class_id, label=label, width=width, height=height, steps=steps
    )
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, sampler=sampler, eta=eta, seed=seed)
    fields |= dict(schedule=schedule, guidance_interval=guidance_interval, loras=read_loras(lora), clip_skip=clip_skip)
    fields |= read_syntax(prompt_syntax)
    draw(kind, fields | dict(num_images=num_images, model=model), {}, out, device, force=force, json=json)


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
    strength: Annotated[float | None, typer.Option(help="How much of the old picture is forgotten, up to 1.")] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    num_images: Count = 1,
    lora: Lora = [],  # noqa: B006 (typer copies it)
    prompt_syntax: Syntax = "plain",
    clip_skip: Skip = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Repaint the masked part of a picture; every other pixel stays as it is."""
    fields: dict[str, Any] = dict(
        prompt=prompt, mask_mode=mask_mode, feather=feather, strength=strength, sampler=sampler, eta=eta
    )
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, steps=steps, seed=seed)
    fields |= dict(num_images=num_images, model=model, schedule=schedule, guidance_interval=guidance_interval)
    fields |= dict(loras=read_loras(lora), clip_skip=clip_skip) | read_syntax(prompt_syntax)
    draw("inpaint", fields, {"image": image, "mask": mask}, out, device, force=force, json=json)


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
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    num_images: Count = 1,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw over a picture, of which as much is kept as the strength leaves; or change it as the prompt says."""
    fields: dict[str, Any] = dict(prompt=prompt, strength=strength, sampler=sampler, eta=eta, steps=steps, seed=seed)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale)
    fields |= dict(num_images=num_images, model=model, image_guidance_scale=image_guidance_scale)
    draw("img2img", fields, {"image": image}, out, device, force=force, json=json)


def depth2img(
    image: Path,
    depth: Annotated[Path, typer.Argument(help="A grey picture of the image's size, the nearer the brighter.")],
    prompt: Prompt = None,
    out: Out = Path("depth2img.png"),
    model: Model = None,
    strength: Strength = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    num_images: Count = 1,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw over a picture, led by how near each of its pixels is."""
    fields: dict[str, Any] = dict(prompt=prompt, strength=strength, sampler=sampler, eta=eta, steps=steps, seed=seed)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale)
    fields |= dict(num_images=num_images, model=model)
    draw("depth2img", fields, {"image": image, "depth": depth}, out, device, force=force, json=json)


def semantic2img(
    image: Annotated[Path, typer.Argument(help="A PNG of one channel whose pixels are numbers of classes.")],
    out: Out = Path("semantic2img.png"),
    model: Model = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    num_images: Count = 1,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw a picture from a map of classes, at its size."""
    fields = dict(model=model, steps=steps, sampler=sampler, eta=eta, seed=seed, num_images=num_images)
    draw("semantic2img", fields, {"image": image}, out, device, force=force, json=json)


def upscale(
    image: Path,
    out: Out = Path("upscale.png"),
    model: Model = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    schedule: Schedule = None,
    seed: Seed = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a picture four times as large."""
    fields = dict(model=model, steps=steps, sampler=sampler, eta=eta, schedule=schedule, seed=seed)
    draw("upscale", fields, {"image": image}, out, device, force=force, json=json)


def read_loras(options: list[str]) -> list[dict[str, Any]] | None:
    """Read `ID:SCALE` as requests have it; None of none.

    Raises:
        InvalidRequest: a scale is no number.
    """
    return [_read_lora(option) for option in options] or None


def read_syntax(name: str) -> dict[str, Any]:
    """Say how texts are read, where that isn't as they stand: tasks without texts know no such field."""
    return {} if name == "plain" else {"prompt_syntax": name}


def _read_lora(option: str) -> dict[str, Any]:
    name, _, scale = option.partition(":")
    try:
        return {"id": name, "scale": float(scale or 1.0)}
    except ValueError as error:
        bound = "ID or ID:NUMBER"
        raise InvalidRequest(f"--lora {option!r}: must be {bound}", field="lora", value=option, bound=bound) from error


def draw(
    kind: Kind,
    fields: dict[str, Any],
    files: dict[str, Path],
    out: Path,
    device: str,
    *,
    force: bool = False,
    json: bool = False,
) -> None:
    """Resolve as the gateway does, run as a worker does, write the files."""
    settings = settings_with()
    check_out(out)
    sent = {name: value for name, value in fields.items() if value is not None}
    sent["output_format"] = FORMATS[out.suffix.lower()]
    request, card, data, warnings = resolve(kind, sent, files, settings)
    paths = paths_for(out, request.num_images, force=force)
    for warning in warnings:
        plain(stderr=True).print(f"warning: {warning.message}", style="yellow")
    write(compute(request, data, settings, device), paths, request, card, force=force, json=json)


def resolve(
    kind: Kind, sent: dict[str, Any], files: dict[str, Path], settings: Settings
) -> tuple[JobRequest, ModelCard, dict[str, bytes], tuple[JobWarning, ...]]:
    """The request with every parameter, its model's card, the bytes of the files and what to warn of."""
    from service.http.problems import invalid
    from service.requests.bodies import Body
    from service.requests.cards import (
        card_folder,
        choose_card,
        installed_cards,
        installed_controlnets,
        installed_embeddings,
        installed_loras,
    )
    from service.requests.kinds import KINDS
    from service.requests.resolution import Known, warnings_of
    from workers.library.catalogue import write_missing_cards

    write_missing_cards(settings.models_dir)
    data = {name: read_file(path) for name, path in files.items()}
    try:
        body = Body(kind, KINDS[kind].post.model_validate(sent), data)
    except ValidationError as error:
        raise invalid(error, KINDS[kind].post) from error
    cards = installed_cards(settings.models_dir)
    if body.post.model is None:
        check_model(settings, cards)
    card = choose_card(cards, kind, body.post.model, settings.model)
    place = settings.models_dir
    known = Known(installed_loras(place), installed_embeddings(place), installed_controlnets(place))
    request = _planned(body, card, files, settings, known)
    folder = card_folder(settings.models_dir, card.id)
    return request, card, data, warnings_of(request, card, folder, known.vectors(request))


def _planned(body: Body, card: ModelCard, files: dict[str, Path], settings: Settings, known: Known) -> JobRequest:
    """Raises InvalidRequest, of a picture by its path: fields of a request have no name on a command line."""
    from service.requests.resolution import resolve
    from service.requests.uploads import read_pictures

    seed = secrets.randbelow(2**32) if body.post.seed is None else body.post.seed
    try:
        pictures = read_pictures(body, card, "command", settings.max_pixels)
        return resolve(body, card, pictures, seed, body.post.output_format or "png", settings.max_pixels, known)
    except InvalidRequest as error:
        if error.field not in files:
            raise
        detail = f"{files[error.field]}: {error.detail}"
        raise InvalidRequest(detail, field=error.field, value=error.value, bound=error.bound) from error


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", field="path", value=str(path)) from error


def compute(request: JobRequest, data: dict[str, bytes], settings: Settings, device: str) -> list[Image]:
    """Load the model, run the job under a progress bar and return its pictures."""
    from workers.engine.engine import run
    from workers.engine.messages import Admission, Outcome, Stepped
    from workers.library.loading import load_engine

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=plain(stderr=True)) as progress:
        bar = progress.add_task(f"{request.kind} seed {request.seed}", total=request.steps * request.num_images)

        def on_outcome(outcome: Outcome) -> None:
            if isinstance(outcome, Stepped):
                progress.update(bar, completed=outcome.step, total=outcome.steps)

        engine = load_engine(settings, [request.model], device)
        return run(engine, Admission("command", request, data), on_outcome)


def write(
    pictures: list[Image],
    paths: list[Path],
    request: JobRequest,
    card: ModelCard,
    *,
    force: bool = False,
    json: bool = False,
) -> None:
    """Raises ConfigurationError where a file can't be written after all, as on a full disk."""
    from workers.engine.pictures import encode_picture, picture_text

    console, images = plain(), []
    for index, (picture, path) in enumerate(zip(pictures, paths, strict=True)):
        data = encode_picture(picture, request.output_format, picture_text(request, index, card.hash))
        written, seed = write_file(path, data, force=force), request.seeds[index]
        images.append({"path": written, "seed": seed, "width": picture.width, "height": picture.height})
        if not json:
            console.print(f"{written}: {picture.width}×{picture.height}, seed {seed}", soft_wrap=True)
    if json:
        print_json({"images": images, "request": request.model_dump(mode="json")})


def register(app: typer.Typer) -> None:
    for command in (generate, inpaint, img2img, semantic2img, depth2img, upscale):
        app.command()(command)
