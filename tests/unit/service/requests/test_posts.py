"""Every field of every kind: inside its bounds accepted, outside refused with field, value and bound."""

from __future__ import annotations

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


def test_a_form_writes_pairs_with_a_comma() -> None:
    assert Txt2ImgPost.model_validate_strings({"guidance_interval": "0.2,0.8"}).guidance_interval == [0.2, 0.8]
    for wrong in ("0.2", "0.2,1.5", "0.2,0.4,0.6", "a,b"):
        with pytest.raises(ValidationError):
            Txt2ImgPost.model_validate_strings({"guidance_interval": wrong})
