"""Options of the commands that draw, and how the text of some is read."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from contract.uploads import control_name
from core.errors import InvalidRequest
from latentd.cli.drawing.order import read_file

CANNY = "canny"  # the one thing that can be done to a control's picture first

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
Strength = Annotated[float | None, typer.Option(help="How much of the old picture is forgotten, up to 1.")]
Lora = Annotated[
    list[str], typer.Option("--lora", help="A LoRA and its scale, as ID:0.8; alone it has scale 1. Repeatable.")
]
Controls = Annotated[
    list[str],
    typer.Option(
        "--control",
        help="A ControlNet and its picture, as ID=FILE, ID=FILE:0.8 with its scale, or ID=FILE:0.8:canny where edges "
        "of the picture are drawn first. Repeatable.",
    ),
]
Syntax = Annotated[
    # Help is markup: a bare [word] would be a style and vanish, and `:id:` a picture.
    str,
    typer.Option("--prompt-syntax", help=r"plain, or weighted: (word:1.2), \[word], BREAK, <lora:dogs:0.8>."),
]
Skip = Annotated[
    int | None, typer.Option("--clip-skip", help="Layer of CLIP, from the last, that is read; 1 is the last.")
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Service that draws instead of this machine, as https://draw.example.org; its API key is LATENTD_API_KEY. "
        "Default: LATENTD_SERVER, else none; '' is none.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N, without --server. Default: the first GPU, else the CPU.")
]


def read_texts(loras: list[str], prompt_syntax: str, clip_skip: int | None) -> dict[str, Any]:
    """Make the fields of how texts are read: nothing where that is as they stand, since other tasks know none.

    Raises:
        InvalidRequest: a LoRA is none.
    """
    fields: dict[str, Any] = {"loras": [_lora(option) for option in loras]} if loras else {}
    fields |= {} if prompt_syntax == "plain" else {"prompt_syntax": prompt_syntax}
    return fields if clip_skip is None else fields | {"clip_skip": clip_skip}


def read_controls(options: list[str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Make the field `controls` of `ID=FILE:SCALE:canny`, and the files by their names in a request.

    Raises:
        InvalidRequest: one is no such thing.
    """
    read = [_control(option) for option in options]
    fields = {"controls": [control for control, _ in read]} if read else {}
    return fields, {control_name(number): file for number, (_, file) in enumerate(read)}


def read_boxes(path: Path) -> Any:
    """Read a file of boxes, which are checked as a request's.

    Raises:
        ConfigurationError: it can't be read.
        InvalidRequest: it isn't JSON.
    """
    try:
        return loads(read_file(path))
    except ValueError as error:
        detail = f"{path} isn't JSON: it must be a list of boxes"
        raise InvalidRequest(detail, field="boxes", value=str(path), bound="a list, in JSON") from error


def _lora(option: str) -> dict[str, Any]:
    name, _, scale = option.partition(":")
    try:
        return {"id": name, "scale": float(scale or 1.0)}
    except ValueError as error:
        raise _wrong("lora", option, "ID or ID:NUMBER") from error


def _control(option: str) -> tuple[dict[str, Any], Path]:
    name, _, file = option.partition("=")
    control: dict[str, Any] = {"id": name}
    if file.endswith(f":{CANNY}"):
        file, control["preprocess"] = file.removesuffix(f":{CANNY}"), CANNY
    before, _, scale = file.rpartition(":")
    if before and _is_number(scale):  # other colons are the file's own
        file, control["scale"] = before, float(scale)
    if not (name and file):
        raise _wrong("control", option, "ID=FILE, ID=FILE:NUMBER or ID=FILE:NUMBER:canny")
    return control, Path(file)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong(name: str, option: str, bound: str) -> InvalidRequest:
    return InvalidRequest(f"--{name} {option!r}: must be {bound}", field=name, value=option, bound=bound)
