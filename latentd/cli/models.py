"""Commands about checkpoints: list, inspect, convert."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from latentd.settings import Settings

app = typer.Typer(help="List, inspect and convert checkpoints.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Show the checkpoints of LATENTD_MODELS_DIR: what each can do, its size and licence."""
    from service.cards import installed_cards

    settings = Settings()
    table = Table("model", "tasks", "native size", "steps", "sampler", "licence", title=str(settings.models_dir))
    for card in installed_cards(settings.models_dir).values():
        size, defaults = f"{card.native_size}²", card.defaults
        table.add_row(card.id, ", ".join(card.tasks), size, str(defaults.steps), defaults.sampler, card.licence)
    Console().print(table)
