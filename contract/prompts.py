"""The language of weighted prompts, AUTOMATIC1111's: what gateways check and show, and workers read.

(x) weighs x by 1.1, [x] by 1/1.1, (x:1.3) by 1.3; weights within weights multiply. A backslash makes a bracket text.
`BREAK` ends a chunk: the 75 tokens that CLIP reads at once. An embedding's name stands for its vectors. `<lora:id:0.8>`
is taken out before (`split_loras`). Prompt editing ([a:b:0.5]) and AND are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from core.errors import InvalidRequest

PromptSyntax: TypeAlias = Literal["plain", "weighted"]
ROUND, SQUARE = 1.1, 1 / 1.1
MAX_WEIGHT = 100.0
MAX_DEPTH = 64  # of brackets in brackets: what they weigh is multiplied out piece by piece
MAX_BREAKS = 32  # each is a pass through the encoder, and 77 rows of every context, however little stands between
NO_TOKEN = -1  # as a comma: of tokenizers that have none
COMMA_REACH = 20  # tokens: what follows a comma this near to a full chunk's end moves to the next one
LORA = re.compile(r"<lora:([^<>:]+)(?::([^<>]*))?>")
_PART = re.compile(r"\\(?P<escaped>[()\[\]\\]?)|:\s*(?P<weight>[+-]?(?:\d++\.?\d*|\.\d+))\s*\)|[()\[\]:]|[^\\()\[\]:]+")
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(slots=True)
class Piece:
    """Text of one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Break:
    """The end of a chunk."""


Parsed: TypeAlias = list[Piece | Break]


@dataclass(slots=True)
class _Brackets:
    """Pieces so far, and where the brackets that are still open begin."""

    pieces: Parsed = field(default_factory=list)
    round: list[int] = field(default_factory=list)
    square: list[int] = field(default_factory=list)

    def weigh(self, start: int, factor: float) -> None:
        for piece in self.pieces[start:]:
            if isinstance(piece, Piece):
                piece.weight *= factor

    def open(self, bracket: str, where: str) -> None:
        (self.round if bracket == "(" else self.square).append(len(self.pieces))
        if len(self.round) + len(self.square) > MAX_DEPTH:
            detail = f"{where} has more than {MAX_DEPTH} open brackets"
            raise InvalidRequest(detail, field=where, value=len(self.round) + len(self.square), bound=MAX_DEPTH)

    def add(self, text: str) -> None:
        first, *rest = _BREAK.split(text)
        self.pieces.append(Piece(first.rstrip() if rest else first))
        for i, part in enumerate(rest):
            self.pieces += [Break(), Piece(part.strip() if i < len(rest) - 1 else part.lstrip())]


def parse(prompt: str, where: str = "prompt") -> Parsed:
    """Read a weighted prompt: pieces of one weight, neighbours of equal weight joined, and breaks.

    `where` is the request's field, for refusals.

    Raises:
        InvalidRequest: brackets are open deeper than MAX_DEPTH, a weight is beyond MAX_WEIGHT, or there are more than
            MAX_BREAKS breaks.
    """
    brackets = _Brackets()
    for match in _PART.finditer(prompt):
        _take(brackets, match, where)
    for start in brackets.round:
        brackets.weigh(start, ROUND)
    for start in brackets.square:
        brackets.weigh(start, SQUARE)
    pieces = _joined(brackets.pieces) or [Piece("")]
    if (breaks := sum(isinstance(piece, Break) for piece in pieces)) > MAX_BREAKS:
        detail = f"{where} has {breaks} BREAKs; up to {MAX_BREAKS}"
        raise InvalidRequest(detail, field=where, value=breaks, bound=MAX_BREAKS)
    for piece in pieces:
        if isinstance(piece, Piece) and not abs(piece.weight) <= MAX_WEIGHT:  # NaN is none either
            detail = f"{where} has a weight of {piece.weight:g}; from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
            raise InvalidRequest(detail, field=where, value=f"{piece.weight:g}", bound=MAX_WEIGHT)
    return pieces


def _take(brackets: _Brackets, match: re.Match[str], where: str) -> None:
    text = match[0]
    if match["escaped"] is not None:
        brackets.pieces.append(Piece(match["escaped"]))
    elif text in ("(", "["):
        brackets.open(text, where)
    elif match["weight"] is not None and brackets.round:
        brackets.weigh(brackets.round.pop(), float(match["weight"]))
    elif text == ")" and brackets.round:
        brackets.weigh(brackets.round.pop(), ROUND)
    elif text == "]" and brackets.square:
        brackets.weigh(brackets.square.pop(), SQUARE)
    else:
        brackets.add(text)


def _joined(pieces: Iterable[Piece | Break]) -> Parsed:
    joined: Parsed = []
    texts: list[str] = []  # of the last piece: joined once, since thousands may follow one another
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, Piece) and isinstance(last, Piece) and piece.weight == last.weight:
            texts.append(piece.text)
            continue
        if isinstance(last, Piece):
            last.text = "".join(texts)
        texts = [piece.text] if isinstance(piece, Piece) else []
        joined.append(piece)
    if joined and isinstance(joined[-1], Piece):
        joined[-1].text = "".join(texts)
    return joined


def split_loras(prompt: str) -> tuple[str, list[tuple[str, str | None]]]:
    """Take `<lora:id:scale>` out of a prompt: what is left, and ids with scales as they are written, None for none."""
    return LORA.sub("", prompt), [(match[1].strip(), match[2]) for match in LORA.finditer(prompt)]


def pattern_of(names: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds these names in texts; None of none."""
    known = tuple(sorted(names))
    return _pattern(known) if known else None


@lru_cache(maxsize=64)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Find names that aren't parts of words, the longest first, whatever the case of their ASCII letters."""
    ordered = sorted(names, key=len, reverse=True)
    words = [name for name in ordered if re.match(r"\w", name)]
    others = [name for name in ordered if not re.match(r"\w", name)]  # none begins where a word does
    parts = ((r"(?<!\w)", words), ("", others))  # one look behind for all: in the midst of a word none is tried
    return re.compile("|".join(f"{before}(?:{'|'.join(map(_to_end, own))})" for before, own in parts if own))


def _to_end(name: str) -> str:
    after = r"(?!\w)" if re.search(r"\w$", name) else ""
    return f"(?ai:{re.escape(name)}){after}"


def split_names(text: str, names: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
    """Yield text and, marked True, the names of embeddings in it, as they are written there."""
    end = 0
    for match in names.finditer(text) if names is not None else ():
        yield text[end : match.start()], False
        yield match[0], True
        end = match.end()
    yield text[end:], False


def read(prompt: str, syntax: PromptSyntax, where: str = "prompt") -> Parsed:
    """Read a prompt of either syntax; a plain one is one piece. Raises as `parse`."""
    return parse(prompt, where) if syntax == "weighted" else [Piece(prompt)]


def named(prompt: str, syntax: PromptSyntax, names: Iterable[str], where: str = "prompt") -> set[str]:
    """Find which of these lower-case names of embeddings a prompt has. Raises as `parse`."""
    pattern = pattern_of(names)
    texts = [piece.text for piece in read(prompt, syntax, where) if isinstance(piece, Piece)]
    return {part.lower() for text in texts for part, is_name in split_names(text, pattern) if is_name}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a chunk takes whole: a token, or all vectors of an embedding."""

    numbers: tuple[int, ...]
    text: str
    weight: float
    embedding: bool = False


# Token numbers, each with its text from the end of the one before on: together all of the text.
Tokenize: TypeAlias = Callable[[str], Sequence[tuple[int, str]]]


def units(pieces: Parsed, tokenize: Tokenize, embeddings: Mapping[str, Sequence[int]]) -> Iterator[Unit | Break]:
    """Tokenise each piece by itself; `embeddings` are the numbers of their vectors, by their lower-case names."""
    pattern = pattern_of(embeddings)
    for piece in pieces:
        if isinstance(piece, Break):
            yield piece
            continue
        for text, is_name in split_names(piece.text, pattern):
            if is_name:
                yield Unit(tuple(embeddings[text.lower()]), text, piece.weight, embedding=True)
            else:
                yield from (Unit((number,), own, piece.weight) for number, own in tokenize(text))


@dataclass(slots=True)
class _Chunks:
    """Chunks that are full, the one that is filled, and where its last comma is."""

    size: int
    reach: int
    done: list[list[Unit]] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    length: int = 0
    comma: int | None = None  # units up to and with it

    def end(self) -> None:
        self.done.append(self.units)
        self.units, self.length, self.comma = [], 0, None

    def add(self, unit: Unit, *, comma: bool) -> None:
        if self.length == self.size and not comma and (moved := self._behind_comma()):
            self.end()
            self._put(*moved)
        if self.length + len(unit.numbers) > self.size:
            self.end()
        self._put(unit)
        if comma:
            self.comma = len(self.units)

    def _put(self, *units: Unit) -> None:
        self.units += units
        self.length += sum(len(unit.numbers) for unit in units)

    def _behind_comma(self) -> list[Unit]:
        """Take out what follows the last comma, if that is near."""
        if self.comma is None:
            return []
        moved = self.units[self.comma :]
        if sum(len(unit.numbers) for unit in moved) >= self.reach:
            return []
        self.units = self.units[: self.comma]
        return moved


def chunks(found: Iterable[Unit | Break], comma: int, size: int, reach: int = COMMA_REACH) -> list[list[Unit]]:
    """Fill chunks of `size` places; `comma` is that token's number.

    Where a full chunk has a comma at most `reach` tokens before its end, what follows that moves to the next chunk.
    """
    state = _Chunks(size, reach)
    for unit in found:
        if isinstance(unit, Break):
            state.end()
        else:
            state.add(unit, comma=unit.numbers == (comma,) and not unit.embedding)
    if state.units or not state.done:
        state.end()
    return state.done
