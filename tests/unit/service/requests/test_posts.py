"""Every field of every kind: inside its bounds accepted, outside refused with field, value and bound."""

from __future__ import annotations

import json
from typing import Any

import annotated_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.errors import InvalidRequest
from service.http.problems import describe, invalid, shown
from service.requests.kinds import KINDS
from service.requests.posts import Post, Txt2ImgPost

NUMBERS = ["steps", "eta", "seed", "num_images", "deadline_ms", "preview_every", "guidance_scale"]


def limits(field: str) -> tuple[float, float]:
    """Least and greatest accepted value of a numeric field."""
    found: dict[str, Any] = {}
    for item in Txt2ImgPost.model_fields[field].metadata:
        for name in ("ge", "le", "lt"):
            if isinstance(item, annotated_types.BaseMetadata) and hasattr(item, name):
                found[name] = getattr(item, name)
    return found["ge"], found["le"] if "le" in found else found["lt"] - 1


@pytest.mark.parametrize("field", NUMBERS)
def test_bounds_are_inclusive(field: str) -> None:
    for value in limits(field):
        kept = None if (field, value) == ("seed", -1) else value  # which draws one
        assert getattr(Txt2ImgPost.model_validate({field: value}, strict=True), field) == kept


@settings(deadline=None)
@given(st.sampled_from(NUMBERS), st.integers(1, 10**30), st.booleans())
def test_outside_the_bounds(field: str, distance: int, above: bool) -> None:
    low, high = limits(field)
    value = high + distance if above else low - distance
    with pytest.raises(ValidationError) as caught:
        Txt2ImgPost.model_validate({field: value}, strict=True)
    error = invalid(caught.value, Txt2ImgPost)
    assert isinstance(error, InvalidRequest)
    assert (error.field, error.bound) == (field, describe(Txt2ImgPost.model_fields[field]))
    assert f"{low:g}" in error.bound
    assert error.value == shown(value)


@pytest.mark.parametrize("model", [task.post for task in KINDS.values()])
def test_every_field_has_a_meaning_a_bound_and_a_default(model: type[Post]) -> None:
    for name, info in model.model_fields.items():
        assert info.description, name
        assert not info.is_required(), name
        assert info.metadata or "Literal" in str(info.annotation), f"{name} is unbounded"
    model()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"abc", "3 bytes"),
        ("x" * 300, "x" * 199 + "…"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (True, True),
        (3, 3),
        (None, None),
        ([1, 2], "[1, 2]"),
        ("\ud800", "?"),
    ],
)
def test_values_are_shown_short(value: object, expected: object) -> None:
    assert shown(value) == expected


def test_numbers_without_end_are_shown() -> None:
    assert len(str(shown(10**5000))) <= 200


@pytest.mark.parametrize(
    ("field", "texts", "numbers"),
    [
        ("guidance_interval", ("0.2,0.8", "0.2, .8", "[0.2,0.8]", "[0.2, 0.8]"), [0.2, 0.8]),
        ("original_size", ("96,64", "96x64", "[96,64]"), [96, 64]),
        ("crop", ("0,8", "[0, 8]"), [0, 8]),
        ("timesteps", ("999,500", "[999, 500]"), [999, 500]),
        ("timesteps", (json.dumps([*range(1000)]),), [*range(1000)]),
    ],
)
def test_a_form_writes_numbers_with_commas_or_in_json(field: str, texts: tuple[str, ...], numbers: list[float]) -> None:
    for each in texts:
        assert getattr(Txt2ImgPost.model_validate_strings({field: each}), field) == numbers


@pytest.mark.parametrize(
    ("field", "wrongs"),
    [
        ("guidance_interval", ("0.2", "0.2,1.5", "0.2,0.4,0.6", "a,b", "[0.2,0.8", "[]")),
        ("timesteps", ("", "1000", "5.5", "," * 1001, "[" + "1," * 3000 + "1]")),
    ],
)
def test_numbers_of_a_form_are_refused(field: str, wrongs: tuple[str, ...]) -> None:
    for wrong in wrongs:
        with pytest.raises(ValidationError) as caught:
            Txt2ImgPost.model_validate_strings({field: wrong})
        assert invalid(caught.value, Txt2ImgPost).field == field
