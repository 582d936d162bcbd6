"""Token counts of prompts, by the `tokenizers` package alone: how many there are and which text a model won't read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from stat import S_ISREG

import structlog
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from contract.card import ModelCard
from contract.prompts import COMMA_REACH, NO_TOKEN, PromptSyntax, Unit, chunks, read, units

log = structlog.get_logger("service")


class Part(BaseModel):
    """Part of a chunk: text of one weight, or an embedding's name."""

    text: str
    tokens: int
    weight: float = 1.0
    embedding: bool = Field(default=False, exclude_if=lambda embedding: not embedding)


class Tokens(BaseModel):
    """A prompt's tokens, specials included, and the end of it that the model's window cuts."""

    count: int | None
    specials: int = Field(
        default=0,
        exclude_if=lambda specials: specials == 0,
        description="How many of them start and end what is encoded at once; a window has room for as many fewer.",
    )
    cut: str | None = None
    chunks: list[list[Part]] | None = Field(
        default=None,
        exclude_if=lambda chunks: chunks is None,
        description="Of a weighted prompt, or one that names embeddings: what is encoded at once, by weights.",
    )


@dataclass(frozen=True, slots=True)
class _Counter:
    """A tokenizer, the same with the padding token as text, and how many special tokens are set around a prompt."""

    tokenizer: Tokenizer
    bare: Tokenizer
    specials: int

    def kept(self, window: int) -> int:
        """Return how many tokens of a prompt fit into a window."""
        return max(window - self.specials, 0)

    def pieces(self, text: str, syntax: PromptSyntax) -> list[tuple[int, str]]:
        """Return tokens, each with its text from the end of the one before, as the engine reads the syntax."""
        encoding = (self.bare if syntax == "weighted" else self.tokenizer).encode(text, add_special_tokens=False)
        ends = [end for _, end in encoding.offsets]
        return [(number, text[a:b]) for number, a, b in zip(encoding.ids, [0, *ends], ends, strict=False)]


@lru_cache(maxsize=32)
def _counter(path: Path, changed: int) -> _Counter | None:  # noqa: ARG001 (a new file, a new entry)
    """Return None, and log it once, for a file that can't be read: workers, which need it, say so of their jobs."""
    try:
        return _read_counter(path)
    except Exception as error:  # tokenizers raises bare Exception
        log.warning("tokens aren't counted", tokenizer=str(path), reason=str(error))
        return None


def _read_counter(path: Path) -> _Counter:
    tokenizer, bare = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
    for each in (tokenizer, bare):
        each.no_truncation()
        each.no_padding()
    if (pad := _pad_token(path)) is not None and tokenizer.token_to_id(pad) is not None:
        tokenizer.add_special_tokens([pad])  # as the engine reads all but weighted prompts
    return _Counter(tokenizer, bare, bare.num_special_tokens_to_add(is_pair=False))


def _pad_token(path: Path) -> str | None:
    """Return what the config beside a tokenizer says: cards' own have one."""
    config = path.with_name("tokenizer_config.json")
    told = json.loads(config.read_text("utf-8-sig")).get("pad_token") if config.is_file() else None
    return str(told["content"]) if isinstance(told, dict) else told


@lru_cache(maxsize=256)
def _place(folder: Path, name: str) -> Path | None:
    """Return where a card's tokenizer is; None for one that isn't in the card's folder."""
    path = folder / name
    return None if ".." in Path(name).parts or not path.is_relative_to(folder) else path


def _read(card: ModelCard, folder: Path | None) -> _Counter | None:
    path = None if folder is None or card.tokenizer is None else _place(folder, card.tokenizer)
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if path is None or found is None or not S_ISREG(found.st_mode) else _counter(path, found.st_mtime_ns)


def count_tokens(card: ModelCard, folder: Path | None, prompt: str) -> Tokens:
    """Count `prompt` as `card`'s model reads it; `count` is None where the gateway has no tokenizer in its folder."""
    counter = None if card.token_window is None else _read(card, folder)
    if counter is None or card.token_window is None:
        return Tokens(count=None)
    offsets = counter.tokenizer.encode(prompt, add_special_tokens=False).offsets
    kept = counter.kept(card.token_window)
    cut = prompt[offsets[kept][0] :].strip() if len(offsets) > kept else None
    return Tokens(count=len(offsets) + counter.specials, specials=counter.specials, cut=cut)


def count_chunks(
    card: ModelCard, folder: Path | None, prompt: str, syntax: PromptSyntax, vectors: Mapping[str, int]
) -> Tokens:
    """Count a weighted prompt, or one with embeddings, of as many `vectors` by their lower-case names.

    A weighted prompt is read in as many chunks as it needs, of a plain one the first.
    """
    counter = None if card.token_window is None else _read(card, folder)
    if counter is None or card.token_window is None:
        return Tokens(count=None)
    pieces = partial(counter.pieces, syntax=syntax)
    comma = next((number for number, _ in pieces(",")), NO_TOKEN)
    places = {name: range(count) for name, count in vectors.items()}
    reach = COMMA_REACH if syntax == "weighted" else 0
    found = chunks(units(read(prompt, syntax), pieces, places), comma, counter.kept(card.token_window), reach)
    shown = found if syntax == "weighted" else found[:1]
    left = "".join(unit.text for chunk in found[len(shown) :] for unit in chunk).strip()
    count = sum(len(unit.numbers) for chunk in found for unit in chunk) + counter.specials * len(shown)
    parts = [_parts(chunk) for chunk in shown]
    return Tokens(count=count, specials=counter.specials, cut=left or None, chunks=parts)


def _of_one_part(unit: Unit) -> tuple[float, bool, int | None]:
    return unit.weight, unit.embedding, id(unit) if unit.embedding else None


def _parts(chunk: Sequence[Unit]) -> list[Part]:
    """Join neighbouring tokens of one weight."""
    parts = []
    for (weight, embedding, _), own in groupby(chunk, _of_one_part):
        same = list(own)
        text = "".join(unit.text for unit in same).strip()
        count = sum(len(unit.numbers) for unit in same)
        parts.append(Part(text=text, tokens=count, weight=round(weight, 6), embedding=embedding))
    return parts
