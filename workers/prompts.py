"""From a request's texts to what networks read of them: tokens in chunks, weighed, with embeddings in their places."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from contract.prompts import COMMA_REACH, NO_TOKEN, PromptSyntax, Unit, chunks, read, units
from models.add_ons.embeddings.library import Embeddings
from models.add_ons.loras.library import Adapters
from models.networks.conditioning import Encoded, Told
from models.pipeline.chunks import Chunk, clip_of, encode_chunks
from models.pipeline.pipeline import LatentDiffusion

PROMPTS_KEPT = 256
CONTEXTS_KEPT = 64 << 20  # bytes: of long weighted prompts fewer are kept; one of SDXL takes 0.6 MB a chunk
SPECIALS = 2  # start and end of a chunk


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read: what of a request changes their contexts."""

    syntax: PromptSyntax = "plain"
    clip_skip: int | None = None
    embeddings: Embeddings | None = None
    adapters: Adapters | None = None
    comma_reach: int = COMMA_REACH

    @property
    def key(self) -> tuple[str, int | None, str, str]:
        embeddings = "" if self.embeddings is None else self.embeddings.key
        adapters = self.adapters.key if self.adapters is not None and self.adapters.text else ""
        return self.syntax, self.clip_skip, embeddings, adapters

    @property
    def bare(self) -> bool:
        """Whether a text encoder of any kind can read so."""
        return self.syntax == "plain" and self.clip_skip is None and self.embeddings is None


PLAIN = Reading()


@dataclass(slots=True)
class PromptCache:
    """What prompts became, by model, prompt and `Reading`, the least recently used dropped.

    Prompts are encoded one at a time, so that a context has the same bits whoever asked for it.
    """

    kept: OrderedDict[tuple[str, str | None, tuple[str, int | None, str, str]], Encoded] = field(
        default_factory=OrderedDict
    )
    held: int = 0  # bytes

    def encoded(self, model: LatentDiffusion, prompt: str | None, reading: Reading = PLAIN) -> Encoded:
        """Return context and pooled vector with b = 1; None is no prompt at all."""
        key = (model.id, prompt, reading.key)
        if key not in self.kept:
            with nullcontext() if reading.adapters is None else reading.adapters.over_text(model):
                self.kept[key] = model.no_prompt() if prompt is None else encode(model, prompt, reading)
            self.held += _size(self.kept[key])
        self.kept.move_to_end(key)
        while len(self.kept) > PROMPTS_KEPT or (self.held > CONTEXTS_KEPT and len(self.kept) > 1):
            self.held -= _size(self.kept.popitem(last=False)[1])
        return self.kept[key]


def _size(encoded: Encoded) -> int:
    return sum(part.nbytes for part in encoded if part is not None)


def encode(model: LatentDiffusion, prompt: str, reading: Reading) -> Encoded:
    """Encode one prompt, b = 1.

    Raises:
        CheckpointError: the model has no text encoder, or none of CLIP where only that can read so.
    """
    if reading.bare:
        return model.encode_prompts([prompt])
    towers = range(len(clip_of(model).towers))
    vectors = [None if reading.embeddings is None else reading.embeddings.vectors[i] for i in towers]
    told = [Told(reading.clip_skip, own) for own in vectors]
    return encode_chunks(model, chunks_of(model, prompt, reading), told)


def chunks_of(model: LatentDiffusion, prompt: str, reading: Reading) -> list[list[Chunk]]:
    """Cut a prompt into chunks as each tower's tokenizer reads it; of a plain one the first is kept."""
    weighted, pieces = reading.syntax == "weighted", read(prompt, reading.syntax)
    towers = []
    for i, tokenizer in enumerate(model.tokenizers):
        numbers = {} if reading.embeddings is None else reading.embeddings.numbers[i]
        pieces_of = tokenizer.bare_pieces if weighted else tokenizer.pieces
        comma = next((number for number, _ in pieces_of(",")), NO_TOKEN)
        size, reach = tokenizer.window - SPECIALS, reading.comma_reach if weighted else 0
        found = chunks(units(pieces, pieces_of, numbers), comma, size, reach)
        towers.append([_chunk(units) for units in (found if weighted else found[:1])])
    return towers


def _chunk(units: Sequence[Unit]) -> Chunk:
    weights = [unit.weight for unit in units for _ in unit.numbers]
    return Chunk(tuple(number for unit in units for number in unit.numbers), tuple(weights))
