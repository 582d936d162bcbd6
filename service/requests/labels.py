"""Classes by number or name, as far as the model's card knows them."""

from __future__ import annotations

from difflib import get_close_matches

from contract.card import ModelCard
from core.errors import InvalidRequest
from service.http.problems import shown
from service.requests.posts import Class2ImgPost


def class_of(post: Class2ImgPost, card: ModelCard) -> int:
    """Return the class that a request names.

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
