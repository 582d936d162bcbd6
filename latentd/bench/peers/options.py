"""The command line of a peer: what the bench tells it."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """A checkpoint in diffusers' layout, where and how it is served."""

    folder: Path
    port: int
    device: str
    dtype: str
    threads: int
    batch: int
    window: float

    def arguments(self) -> list[str]:
        """Return what `read_options` reads."""
        return [text for name in self.__slots__ for text in (f"--{name}", str(getattr(self, name)))]


def read_options() -> Options:
    parser = ArgumentParser()
    for name, kind in (("folder", Path), ("device", str), ("dtype", str), ("window", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("port", "threads", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return Options(**vars(parser.parse_args()))
