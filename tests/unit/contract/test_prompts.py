"""The language of weighted prompts: what A1111's rules make of brackets, breaks, names and 75 places a chunk."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from contract.prompts import (
    MAX_BREAKS,
    MAX_DEPTH,
    Break,
    Piece,
    chunks,
    named,
    parse,
    pattern_of,
    read,
    split_loras,
    split_names,
    units,
)
from core.errors import InvalidRequest

COMMA = 1


def pieces(prompt: str) -> list[tuple[str, float] | None]:
    return [None if isinstance(piece, Break) else (piece.text, round(piece.weight, 4)) for piece in parse(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("a (b) [c]", [("a ", 1.0), ("b", 1.1), (" ", 1.0), ("c", 0.9091)]),
        ("((a)b:2)", [("a", 2.2), ("b", 2.0)]),
        ("(a:.5)(b: -1. )", [("a", 0.5), ("b", -1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("[a:1.3]", [("a:1.3", 0.9091)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.9091)]),
        ("(a [b", [("a ", 1.1), ("b", 1.0)]),
        (r"\(a\) \[b\] \\ c\d\ ", [("(a) [b] \\ cd ", 1.0)]),
        ("a) b] : 2)", [("a) b] : 2)", 1.0)]),
        ("a BREAK\n b", [("a", 1.0), None, ("b", 1.0)]),
        ("BREAK BREAK", [("", 1.0), None, ("", 1.0), None, ("", 1.0)]),
        ("(a BREAK b:1.5)", [("a", 1.5), None, ("b", 1.5)]),
        ("BREAKS a", [("BREAKS a", 1.0)]),
    ],
)
def test_brackets_weigh_and_breaks_part(prompt: str, expected: list[tuple[str, float] | None]) -> None:
    assert pieces(prompt) == expected


def test_a_plain_prompt_is_one_piece() -> None:
    assert read("(a:2) BREAK", "plain") == [Piece("(a:2) BREAK")]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("(" * (MAX_DEPTH + 1), "prompt has more than 64 open brackets"),
        ("(" * 60, "prompt has a weight of 304"),
        ("(a:-101)", "prompt has a weight of -101; from -100 to 100"),
        (f"((a:0):{'9' * 400})", "prompt has a weight of nan"),
        ("BREAK " * (MAX_BREAKS + 1), "prompt has 33 BREAKs; up to 32"),
    ],
)
def test_what_is_beyond_measure_is_refused(prompt: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        parse("a" if not prompt else f"{prompt}b")
    assert refused.value.field == "prompt"


@pytest.mark.parametrize("part", ["(a)", "[(a:2)]", "\\", ": ", " BREAK", "(a BREAK", ") ", ",<lora:a:1>"])
def test_the_longest_prompts_are_read_in_no_time(part: str) -> None:
    prompt = (part * 4000)[:4000] if part != "(a BREAK" else part * MAX_DEPTH
    began = time.process_time()
    try:
        parse(prompt)
    except InvalidRequest as error:
        refused = "BREAK" if "BREAK" in part else "weight"
        assert refused in error.detail  # noqa: PT017 (whether it is refused isn't what is timed)
    split_loras(prompt)
    assert time.process_time() - began < 0.5


def test_a_weight_that_is_none_is_read_once() -> None:
    began = time.process_time()
    parse(f":{'1' * 40_000}")
    assert time.process_time() - began < 0.5


def test_loras_are_taken_out_as_they_are_written() -> None:
    left, loras = split_loras("a <lora:dogs:0.8>, <lora:my cat> b <lora:x:1:2> <loha:y:1>")
    assert left == "a ,  b  <loha:y:1>"
    assert loras == [("dogs", "0.8"), ("my cat", None), ("x", "1:2")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a Bad-Hand, x", ["Bad-Hand"]),
        ("a bad-hands", []),
        ("xbad-hand", []),
        ("a<sks>b <SKS>", ["<sks>", "<SKS>"]),
        ("bad-hand-v2 bad-hand", ["bad-hand-v2", "bad-hand"]),
    ],
)
def test_names_are_words_of_their_own_the_longest_first(text: str, found: list[str]) -> None:
    parts = list(split_names(text, pattern_of(["bad-hand", "<sks>", "bad-hand-v2"])))
    assert [part for part, is_name in parts if is_name] == found
    assert "".join(part for part, _ in parts) == text
    assert named(f"({text}:1.2)", "weighted", ["bad-hand", "<sks>", "bad-hand-v2"]) == {name.lower() for name in found}


def words(text: str) -> Sequence[tuple[int, str]]:
    """A tokenizer: commas are 1, words their lengths and a hundred."""
    return [(COMMA if word == "," else 100 + len(word), word) for word in text.split()]


def lengths(prompt: str, size: int, reach: int = 20, **embeddings: range) -> list[int]:
    found = chunks(units(parse(prompt), words, embeddings), COMMA, size, reach)
    return [sum(len(unit.numbers) for unit in chunk) for chunk in found]


def test_chunks_are_filled_ended_and_never_missing() -> None:
    assert lengths("", 4) == [0]
    assert lengths("a b c d e", 4) == [4, 1]
    assert lengths("a b c d", 4) == [4]
    assert lengths("a BREAK b", 4) == [1, 1]
    assert lengths("BREAK a", 4) == [0, 1]
    assert lengths("a BREAK", 4) == [1]


def test_what_follows_a_near_comma_moves_on_together() -> None:
    assert lengths("a , b c d", 4) == [2, 3]
    assert lengths("a , b c d", 4, reach=2) == [4, 1]
    assert lengths("a b c , d", 4) == [4, 1]
    assert lengths("a b c d , e", 4) == [4, 2]


def test_an_embedding_is_never_cut_and_weighs_as_its_text_does() -> None:
    style = range(900, 903)
    assert lengths("a b style c", 4, style=style) == [2, 4]
    assert lengths("a , b c style", 4, style=style) == [2, 2, 3]
    [chunk] = chunks(units(parse("a (Style:1.5)"), words, {"style": style}), COMMA, 4)
    assert [(unit.numbers, unit.weight) for unit in chunk] == [((101,), 1.0), ((900, 901, 902), 1.5)]
