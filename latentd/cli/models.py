"""Commands about checkpoints: list, inspect, convert, forget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from latentd.cli.console import Json, plain, print_json, table_of
from latentd.cli.keys import connect
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from contract.card import AddOnCard, ControlNetCard, EmbeddingCard, LoraCard
    from models.checkpoints.inspect import Report

# What `list` tells, a column each.
LORA = ("LoRA", "family", "rank", "changes", "trigger words", "licence")
EMBEDDING = ("embedding", "family", "vectors", "width", "licence")
CONTROLNET = ("ControlNet", "family", "note", "licence")

app = typer.Typer(help="List, inspect, convert and forget checkpoints.", no_args_is_help=True)


class Target(StrEnum):
    """Layouts that `convert` writes."""

    native = "native"
    diffusers = "diffusers"


@app.command("list")
def list_models(json: Json = False) -> None:
    """Show what LATENTD_MODELS_DIR holds: checkpoints, LoRAs, embeddings and ControlNets; missing cards are written."""
    from models.add_ons.controls.scan import scan_controls
    from models.add_ons.embeddings.scan import scan_embeddings
    from models.add_ons.loras.scan import scan_loras
    from models.checkpoints.scan import scan
    from service.requests.cards import installed_cards, installed_controlnets, installed_embeddings, installed_loras

    settings, console = settings_with(), plain()
    folder = settings.models_dir
    found = scan(folder)
    errors = [(lora.path, lora.error) for lora in scan_loras(folder)]
    errors += [(embedding.path, embedding.error) for embedding in scan_embeddings(folder)]
    errors += [(control.path, control.error) for control in scan_controls(folder)]
    cards, loras = installed_cards(folder), installed_loras(folder)
    embeddings, controlnets = installed_embeddings(folder), installed_controlnets(folder)
    if json:
        shown: dict[str, Mapping[str, BaseModel]]
        shown = {"models": cards, "loras": loras, "embeddings": embeddings, "controlnets": controlnets}
        listed = {name: [card.model_dump(mode="json") for card in some.values()] for name, some in shown.items()}
        print_json(listed | {"files": list(map(asdict, found))})
        return
    table = table_of("model", "tasks", "native size", "steps", "sampler", "licence", title=str(settings.models_dir))
    for card in cards.values():
        size, defaults = f"{card.native_size}²", card.defaults
        table.add_row(card.id, ", ".join(card.tasks), size, str(defaults.steps), defaults.sampler, card.licence)
    console.print(table)
    _print_table(console, LORA, map(_lora_row, loras.values()))
    _print_table(console, EMBEDDING, map(_embedding_row, embeddings.values()))
    _print_table(console, CONTROLNET, map(_controlnet_row, controlnets.values()))
    for path, error in errors:
        if error is not None:
            console.print(f"{path.name}: {error}", soft_wrap=True)
    for item in found:
        lines = [*(["card written"] if item.written else []), *item.notes, *([item.error] if item.error else [])]
        for line in lines:
            console.print(f"{item.path.name}: {line}", soft_wrap=True)


def _print_table(console: Console, headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, unless there is nothing in it."""
    table = table_of(*headers)
    for row in rows:
        table.add_row(*row)
    if table.rows:
        console.print(table)


def _lora_row(card: LoraCard) -> tuple[str, ...]:
    words = _usable(card, ", ".join(card.trigger_words))
    return card.id, card.family or "", str(card.rank), ", ".join(card.parts), words, card.licence


def _embedding_row(card: EmbeddingCard) -> tuple[str, ...]:
    widths = " + ".join(map(str, card.widths))
    return card.name, card.family or "", str(card.vectors), widths, _usable(card, card.licence)


def _controlnet_row(card: ControlNetCard) -> tuple[str, ...]:
    return card.id, card.family or "", _usable(card, card.description), card.licence


def _usable(card: AddOnCard | EmbeddingCard, text: str) -> str:
    """Return the text, or why it can't be used."""
    return text if card.unserved is None else f"can't be used: {card.unserved}"


@app.command("inspect")
def inspect_model(
    path: Annotated[Path, typer.Argument(help="A checkpoint: file or folder.")], json: Json = False
) -> None:
    """Say what a checkpoint is, by every key and shape; nothing in it is executed."""
    from models.add_ons.controls.inspect import inspect_control
    from models.add_ons.embeddings.inspect import inspect_embedding
    from models.add_ons.loras.inspect import inspect_lora
    from models.checkpoints.inspect import inspect

    report = inspect_lora(path) or inspect_embedding(path) or inspect_control(path) or inspect(path)
    if json:
        print_json(asdict(report))
    else:
        _print(report, plain())


def _print(report: Report, console: Console) -> None:
    table = Table(Column(), Column(overflow="fold"), show_header=False, box=None)
    table.add_row("format", report.format)
    table.add_row("what", report.description)
    table.add_row("tasks", ", ".join(report.tasks) or "none by itself")
    for part in report.parts:
        table.add_row(part.name, f"{part.parameters / 1e6:,.1f} M parameters, {', '.join(part.dtypes)}")
    for name, fact in report.facts.items():
        table.add_row(name, fact)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)


@app.command("convert")
def convert_model(
    path: Annotated[Path, typer.Argument(help="A checkpoint: file or folder.")],
    out: Annotated[Path, typer.Argument(help="The new folder; its name becomes the model's id.")],
    to: Annotated[Target, typer.Option(help="native: latentd's own form; diffusers: a folder that diffusers loads.")],
) -> None:
    """Write a checkpoint in another layout, weights unchanged in value and precision."""
    from models.checkpoints.convert import convert

    convert(path, out, to.value)
    plain().print(f"{out}: written", soft_wrap=True)


@app.command("forget")
def forget_model(
    name: Annotated[str, typer.Argument(help="A model, LoRA, embedding or ControlNet that no worker has any more.")],
) -> None:
    """Remove a name from what gateways list and accept, once its files are gone from every worker."""
    from service.requests.cards import forget_published

    with connect() as redis:
        forget_published(redis, name)
    plain().print(f"{name} is forgotten", soft_wrap=True)
