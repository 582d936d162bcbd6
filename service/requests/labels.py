"""Classes by number or name, as far as the model's card knows them; and boxes of them as the numbers of a layout."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from contract.card import LayoutCard, ModelCard
from core.errors import InvalidRequest
from service.http.problems import shown
from service.requests.posts import BoxPost, Class2ImgPost, Layout2ImgPost

WHOLE = (0.0, 0.0, 1.0, 1.0)


def class_of(post: Class2ImgPost | BoxPost, card: ModelCard) -> int:
    """Return the class that a request or one of its boxes names.

    Raises:
        InvalidRequest: neither or both of `class_id` and `label`; a class that the model hasn't.
    """
    if (post.class_id is None) == (post.label is None):
        given = "neither is there" if post.class_id is None else "both are there"
        raise InvalidRequest(f"class_id or label names the class; {given}", field="class_id", bound="one of the two")
    if post.label is not None:
        return _by_name(post.label, card)
    assert post.class_id is not None
    check_below("class_id", post.class_id, card.classes, card)
    return post.class_id


def check_below(field: str, value: int | None, bound: int | None, card: ModelCard) -> None:
    """Check that `value` is below `bound`; a card without a bound leaves it to the worker.

    Raises:
        InvalidRequest: it isn't.
    """
    if value is not None and bound is not None and value >= bound:
        detail = f"{field} is {value}; model {card.id} has 0 to {bound - 1}"
        raise InvalidRequest(detail, field=field, value=value, bound=bound - 1)


def _by_name(label: str, card: ModelCard) -> int:
    names = [name.casefold() for name in card.class_names or ()]
    found = [number for number, name in enumerate(names) if name == label.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(map(str, found))
        detail = f"label {shown(label)!r} names classes {numbers} of model {card.id}; choose by class_id"
        raise InvalidRequest(detail, field="label", value=label, bound=found)
    raise _unknown(label, card, names)


def _unknown(label: str, card: ModelCard, names: list[str]) -> InvalidRequest:
    if not names:
        detail = f"the card of model {card.id} has no class_names; name the class by class_id"
        return InvalidRequest(detail, field="label", value=label, bound="class_id")
    near = get_close_matches(label.casefold(), names, n=3, cutoff=0.5)
    hint = f"; near are {', '.join(near)}" if near else ""
    detail = f"model {card.id} has no class {shown(label)!r} among its {len(names)} class_names{hint}"
    return InvalidRequest(detail, field="label", value=label, bound=f"the class_names of /v1/models/{card.id}")


def layout_of(post: Layout2ImgPost, card: ModelCard) -> tuple[int, ...]:
    """Return the numbers that the network reads: (class, first corner, last corner) of each box, then of the crop.

    The rest is filled with the one for no box. As LDM's layout models were trained (CompVis's OpenImagesBBoxBase).

    Raises:
        InvalidRequest: neither or both of `boxes` and `tokens`, or what the model has no number for.
    """
    if card.layout is None:
        raise InvalidRequest(f"the card of model {card.id} has no layout", field="model", value=card.id)
    if (post.boxes is None) == (post.tokens is None):
        given = "neither is there" if post.boxes is None else "both are there"
        raise InvalidRequest(f"boxes or tokens say what is where; {given}", field="boxes", bound="one of the two")
    if post.crop is not None and (post.tokens is not None or not card.layout.crops):
        why = "tokens, which have it in them" if post.tokens is not None else f"model {card.id}"
        raise InvalidRequest(f"crop is of no use to {why}", field="crop", value=post.crop, bound="absent")
    if post.tokens is not None:
        return _as_sent(post.tokens, card.layout)
    return _row(post.boxes or [], post.crop, card, card.layout)


def _as_sent(tokens: list[int], layout: LayoutCard) -> tuple[int, ...]:
    if len(tokens) != layout.length:
        detail = f"tokens are {len(tokens)}; the model reads {layout.length}"
        raise InvalidRequest(detail, field="tokens", value=len(tokens), bound=layout.length)
    if max(tokens) > layout.none:
        detail = f"tokens have {max(tokens)}; the model's go up to {layout.none}"
        raise InvalidRequest(detail, field="tokens", value=max(tokens), bound=layout.none)
    return tuple(tokens)


def _row(boxes: list[BoxPost], crop: list[float] | None, card: ModelCard, layout: LayoutCard) -> tuple[int, ...]:
    if len(boxes) > layout.objects or layout.length % 3 == 1:
        bound = layout.objects if layout.length % 3 != 1 else "tokens"
        detail = f"boxes are {len(boxes)}; model {card.id} has room for {bound}"
        raise InvalidRequest(detail, field="boxes", value=len(boxes), bound=bound)
    row: list[int] = []
    for i, box in enumerate(boxes):
        row += (_object(i, box, card, layout), *_corner_pair(box.box, layout))
    row += [layout.none] * (3 * layout.objects - len(row))
    return (*row, *(_corner_pair(crop or WHOLE, layout) if layout.crops else ()))


def _object(i: int, box: BoxPost, card: ModelCard, layout: LayoutCard) -> int:
    """Return a box's class, moved by as many classes as there are for what is said of it beside."""
    try:
        number = class_of(box, card)
    except InvalidRequest as error:
        detail = f"boxes.{i}: {error.detail}"
        raise InvalidRequest(detail, field="boxes", value=error.value, bound=error.bound) from error
    said = box.group | box.occluded << 1 | box.depiction << 2 | box.inside << 3
    if said and card.classes is None:
        detail = f"boxes.{i}: group, occluded, depiction and inside need `classes` in the card of model {card.id}"
        raise InvalidRequest(detail, field="boxes", value=number, bound="a class alone")
    number += said * (card.classes or 0)
    if number >= layout.none:
        detail = f"boxes.{i}: what it is has number {number}; the model's go up to {layout.none - 1}"
        raise InvalidRequest(detail, field="boxes", value=number, bound=layout.none - 1)
    return number


def _corner_pair(box: Sequence[float], layout: LayoutCard) -> tuple[int, int]:
    left, top, right, bottom = box
    # Sides are what the data set keeps: their sums round as there.
    width, height = min(right - left, 1 - left), min(bottom - top, 1 - top)
    return _corner(left, top, layout.sections), _corner(left + width, top + height, layout.sections)


def _corner(x: float, y: float, sections: int) -> int:
    """Return the number of the nearest point of the grid, row by row."""
    return round(y * (sections - 1)) * sections + round(x * (sections - 1))
