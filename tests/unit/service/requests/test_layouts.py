"""Boxes become the numbers that LDM's layout models were trained with; what a model has no number for is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contract.card import LayoutCard, ModelCard
from core.errors import InvalidRequest
from service.requests.labels import layout_of
from service.requests.posts import Layout2ImgPost
from tests.gateway import PAINTER

NAMES = ("Tortoise", "Container", "Magpie", "Sea turtle")
OPEN_IMAGES = LayoutCard(vocabulary=8192, length=92)  # of layout2img-openimages256


def card(layout: LayoutCard | None = OPEN_IMAGES, **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {"tasks": ("layout2img",), "layout": layout, "class_names": NAMES, **changes}
    return PAINTER.model_copy(update=fields)


def tokens(model: ModelCard | None = None, **fields: Any) -> tuple[int, ...]:
    return layout_of(Layout2ImgPost.model_validate(fields), model or card())


def refused(model: ModelCard | None = None, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        tokens(model, **fields)
    return caught.value


def test_the_whole_grid_of_the_published_model() -> None:
    """√8192 is 90.5: 90 × 90 points, 8191 where nothing is, 0 and 8099 for the whole picture at the end."""
    row = tokens(boxes=[{"box": [0, 0, 1, 1], "class_id": 7}])
    assert row == (7, 0, 8099, *(8191,) * 87, 0, 8099)


def test_corners_are_the_nearest_points_row_by_row() -> None:
    # The example of the original's docstring: 16 numbers, a point in the third column of the second row is 6.
    small = card(LayoutCard(vocabulary=16, length=6))
    assert tokens(small, boxes=[{"box": [2 / 3, 1 / 3, 1, 1], "class_id": 2}]) == (2, 6, 15, 15, 15, 15)
    assert tokens(small, boxes=[{"box": [0.5, 0.1, 0.6, 0.6], "class_id": 2}])[1:3] == (2, 10)  # 1.5 rounds to even


def test_boxes_keep_their_order_and_the_crop_comes_last() -> None:
    row = tokens(
        boxes=[{"box": [0, 0, 0.5, 1], "label": "magpie"}, {"box": [0.5, 0, 1, 1], "class_id": 0}], crop=[0, 0, 0.5, 1]
    )
    middle, bottom = round(0.5 * 89), 89 * 90
    assert row[:6] == (2, 0, bottom + middle, 0, middle, bottom + 89)
    assert row[-2:] == (0, bottom + middle)
    assert set(row[6:-2]) == {8191}


def test_what_is_said_beside_the_class_moves_it_by_all_classes() -> None:
    said = {"group": 1, "occluded": 2, "depiction": 4, "inside": 8}
    for name, weight in said.items():
        assert (
            tokens(card(classes=300), boxes=[{"box": [0, 0, 1, 1], "class_id": 5, name: True}])[0] == 5 + 300 * weight
        )
    every = dict.fromkeys(said, True)
    assert tokens(card(classes=300), boxes=[{"box": [0, 0, 1, 1], "class_id": 299, **every}])[0] == 299 + 300 * 15


def test_numbers_pass_as_they_are() -> None:
    row = tuple(range(92))
    assert tokens(tokens=list(row)) == row
    odd = card(LayoutCard(vocabulary=8192, length=4))
    assert tokens(odd, tokens=[8191, 0, 1, 2]) == (8191, 0, 1, 2)


BOX = {"box": [0, 0, 1, 1], "class_id": 1}


@pytest.mark.parametrize(
    ("changes", "fields", "field", "bound"),
    [
        ({}, {}, "boxes", "one of the two"),
        ({}, {"boxes": [BOX], "tokens": [1]}, "boxes", "one of the two"),
        ({}, {"boxes": [BOX] * 31}, "boxes", 30),
        ({}, {"boxes": [BOX, {"box": [0, 0, 1, 1]}]}, "boxes", "one of the two"),
        (
            {},
            {"boxes": [{"box": [0, 0, 1, 1], "label": "cat"}]},
            "boxes",
            "the class_names of /v1/models/painter",
        ),
        ({}, {"boxes": [{**BOX, "class_id": 8191}]}, "boxes", 8190),
        ({"classes": 4}, {"boxes": [{**BOX, "class_id": 4}]}, "boxes", 3),
        ({"classes": 4000}, {"boxes": [{**BOX, "class_id": 3999, "occluded": True}]}, "boxes", 8190),
        ({}, {"boxes": [{**BOX, "group": True}]}, "boxes", "a class alone"),
        ({}, {"tokens": [0] * 91}, "tokens", 92),
        ({}, {"tokens": [8192, *[0] * 91]}, "tokens", 8191),
        ({}, {"tokens": [0] * 92, "crop": [0, 0, 1, 1]}, "crop", "absent"),
        ({"layout": LayoutCard(vocabulary=16, length=6)}, {"boxes": [BOX], "crop": [0, 0, 1, 1]}, "crop", "absent"),
        ({"layout": LayoutCard(vocabulary=16, length=7)}, {"boxes": [BOX]}, "boxes", "tokens"),
        ({"layout": None}, {"boxes": [BOX]}, "model", None),
    ],
)
def test_what_the_model_has_no_number_for_is_refused(
    changes: dict[str, Any], fields: dict[str, Any], field: str, bound: object
) -> None:
    error = refused(card(**changes), **fields)
    assert (error.field, error.bound) == (field, bound)


@pytest.mark.parametrize(
    "fields",
    [
        {"boxes": []},
        {"boxes": [{"box": [0, 0, 1.01, 1], "class_id": 1}]},
        {"boxes": [{"box": [-0.1, 0, 1, 1], "class_id": 1}]},
        {"boxes": [{"box": [0.5, 0, 0.5, 1], "class_id": 1}]},
        {"boxes": [{"box": [0, 0.9, 1, 0.1], "class_id": 1}]},
        {"boxes": [{"box": [0, 0, 1], "class_id": 1}]},
        {"boxes": [{"box": [0, 0, float("nan"), 1], "class_id": 1}]},
        {"boxes": [{"box": [0, 0, 1, 1], "class_id": -1}]},
        {"boxes": [BOX] * 257},
        {"boxes": [BOX], "crop": [1, 0, 1, 1]},
        {"boxes": [BOX], "prompt": "cat"},
        {"tokens": []},
        {"tokens": [-1]},
    ],
)
def test_boxes_are_bounded_before_any_card_is_asked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Layout2ImgPost.model_validate(fields)
