"""Commands that draw without any server: generate, inpaint, upscale. Same rules and engine as the service."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import ConfigurationError, InvalidRequest
from core.settings import Settings
from latentd.cli.console import plain
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from PIL.Image import Image

    from contract.base import Kind
    from contract.card import ModelCard
    from contract.request import JobRequest

Out = Annotated[
    Path, typer.Option("--out", "-o", help="File to write: .png, .jpg or .webp; several images get -0, -1, …")
]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint. Default: LATENTD_MODEL if it can, else the first that can.")
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps, 1–1000. Default: the model's.")]
Sampler = Annotated[str | None, typer.Option(help="Sampler. Default: the model's.")]
Eta = Annotated[float | None, typer.Option(help="DDIM's share of fresh noise, 0–1.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the first image; drawn and shown if absent.")]
Count = Annotated[int, typer.Option("--num-images", "-n", help="Images to make, 1–16.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale, 0–50; 0 and 1: none. Default: the model's.")]
Negative = Annotated[str | None, typer.Option(help="What the picture must not show.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")]
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def generate(
    prompt: str,
    out: Out = Path("out.png"),
    model: Model = None,
    width: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, from 64.")] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    num_images: Count = 1,
    device: Device = "auto",
) -> None:
    """Draw a picture from a text."""
    fields = dict(prompt=prompt, width=width, height=height, negative_prompt=negative_prompt, eta=eta, steps=steps)
    fields |= dict(guidance_scale=guidance_scale, sampler=sampler, seed=seed, num_images=num_images, model=model)
    draw("txt2img", fields, {}, out, device)


def inpaint(
    image: Path,
    mask: Path,
    prompt: str,
    out: Out = Path("out.png"),
    model: Model = None,
    mask_mode: Annotated[
        str, typer.Option(help="white, black, alpha or auto: which mask pixels are repainted.")
    ] = "white",
    feather: Annotated[int, typer.Option(help="Pixels outside the mask that may blend.")] = 0,
    strength: Annotated[float | None, typer.Option(help="How much of the old picture is forgotten, up to 1.")] = None,
    negative_prompt: Negative = None,
    guidance_scale: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    num_images: Count = 1,
    device: Device = "auto",
) -> None:
    """Repaint the masked part of a picture; every other pixel stays as it is."""
    fields = dict(prompt=prompt, mask_mode=mask_mode, feather=feather, strength=strength, sampler=sampler, eta=eta)
    fields |= dict(negative_prompt=negative_prompt, guidance_scale=guidance_scale, steps=steps, seed=seed)
    draw("inpaint", fields | dict(num_images=num_images, model=model), {"image": image, "mask": mask}, out, device)


def upscale(
    image: Path,
    out: Out = Path("out.png"),
    model: Model = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Make a picture four times as large."""
    draw("upscale", dict(model=model, steps=steps, sampler=sampler, eta=eta, seed=seed), {"image": image}, out, device)


def draw(kind: Kind, fields: dict[str, Any], files: dict[str, Path], out: Path, device: str) -> None:
    """Resolve as the gateway does, run as a worker does, write the files."""
    settings = settings_with()
    check_out(out)
    sent = {name: value for name, value in fields.items() if value is not None}
    sent["output_format"] = FORMATS[out.suffix.lower()]
    request, card, data = resolve(kind, sent, files, settings)
    count = request.num_images
    paths = [out] if count == 1 else [out.with_stem(f"{out.stem}-{k}") for k in range(count)]
    for path in paths:
        check_out(path)
    write(compute(request, data, settings, device), paths, request, card)


def check_out(out: Path) -> None:
    """Before anything is computed: see that `out` names a format and can probably be written.

    Raises:
        InvalidRequest: it ends in no format's suffix.
        ConfigurationError: its folder isn't there or isn't ours to write in, or it is a folder itself.
    """
    if out.suffix.lower() not in FORMATS:
        raise InvalidRequest(f"--out {out}: ends in none of {', '.join(FORMATS)}", field="out", value=str(out))
    if not out.parent.is_dir():
        raise _unwritable(out, f"{out.parent} is no folder")
    if out.is_dir():
        raise _unwritable(out, "it is a folder")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise _unwritable(out, "no permission to write there")


def _unwritable(out: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"--out {out}: {reason}", field="out", value=str(out), bound="a file that can be written")


def resolve(
    kind: Kind, sent: dict[str, Any], files: dict[str, Path], settings: Settings
) -> tuple[JobRequest, ModelCard, dict[str, bytes]]:
    """The request with every parameter, its model's card and the bytes of the files."""
    from service.http.problems import invalid
    from service.requests.bodies import Body
    from service.requests.cards import card_folder, choose_card, installed_cards
    from service.requests.kinds import KINDS
    from service.requests.resolution import resolve, warnings_of
    from service.requests.uploads import read_pictures
    from workers.catalogue import write_missing_cards

    write_missing_cards(settings.models_dir)
    data = {name: read_file(path) for name, path in files.items()}
    try:
        body = Body(kind, KINDS[kind].post.model_validate(sent), data)
    except ValidationError as error:
        raise invalid(error, KINDS[kind].post) from error
    cards = installed_cards(settings.models_dir)
    card = choose_card(cards, kind, body.post.model, settings.model)
    seed = body.post.seed if body.post.seed is not None else secrets.randbelow(2**32)
    pictures = read_pictures(body, card, "command", settings.max_pixels)
    request = resolve(body, card, pictures, seed, sent["output_format"], settings.max_pixels)
    for warning in warnings_of(request, card, card_folder(settings.models_dir, card.id)):
        plain(stderr=True).print(f"warning: {warning.message}", style="yellow")
    return request, card, data


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", field="path", value=str(path)) from error


def compute(request: JobRequest, data: dict[str, bytes], settings: Settings, device: str) -> list[Image]:
    """Load the model, run the job under a progress bar and return its pictures."""
    from workers.engine.engine import run
    from workers.engine.messages import Admission, Outcome, Stepped
    from workers.loading import load_engine

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


def write(pictures: list[Image], paths: list[Path], request: JobRequest, card: ModelCard) -> None:
    """Raises ConfigurationError where a file can't be written after all, as on a full disk."""
    from workers.engine.pictures import encode_picture, picture_text

    console = plain()
    for index, (picture, path) in enumerate(zip(pictures, paths, strict=True)):
        data = encode_picture(picture, request.output_format, picture_text(request, index, card.hash))
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _unwritable(path, error.strerror or str(error)) from error
        console.print(f"{path}: {picture.width}×{picture.height}, seed {request.seeds[index]}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    for command in (generate, inpaint, upscale):
        app.command()(command)
