"""Where commands print. Names, paths and values are shown as they are: brackets and colons in them are no markup."""

from __future__ import annotations

from rich.console import Console


def plain(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
