"""A post and a model card → the resolved request: defaults of the model, refusals of what it can't do, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from contract.card import ControlNetCard, LoraCard, ModelCard
from contract.job import JobWarning
from contract.request import (
    CONTROL,
    AppliedControl,
    AppliedLora,
    JobRequest,
    OutputFormat,
    Upload,
    control_name,
    parse_request,
)
from contract.samplers import ETA, ORIGINAL_STEPS
from core.errors import InvalidRequest, NotFound
from core.pictures import check_control_size, check_sides
from service.http.problems import shown
from service.requests.bodies import Body
from service.requests.posts import ControlPost, Drawn, LoraPost, Post, Prompted
from service.requests.tokens import count_tokens
from service.requests.uploads import Pictures

SHOWN_ADD_ONS = 20  # of those that are known, in a refusal
A = TypeVar("A", LoraCard, ControlNetCard)


@dataclass(frozen=True, slots=True)
class KnownAddOns:
    """The LoRAs and ControlNets that a request may name, by id."""

    loras: Mapping[str, LoraCard] = made(default_factory=dict)
    controlnets: Mapping[str, ControlNetCard] = made(default_factory=dict)


NONE_KNOWN = KnownAddOns()


def resolve(
    body: Body,
    card: ModelCard,
    pictures: Pictures,
    seed: int,
    output_format: OutputFormat,
    max_pixels: int,
    known: KnownAddOns = NONE_KNOWN,
) -> JobRequest:
    """Fill in every parameter.

    Raises:
        InvalidRequest: a field, sampler, size, add-on or map that the model, the format or the service can't do.
        NotFound: a LoRA or ControlNet that isn't known.
    """
    _check_fields(body, card)
    width, height = body.task.size(body.post, card, pictures.size)
    sized_by = "image" if body.files else "width" if width >= height else "height"
    check_sides((width, height), output_format, max_pixels, sized_by)
    post = body.post
    sampler = _sampler(post.sampler, card)
    values: dict[str, Any] = {
        "kind": body.kind,
        "model": card.id,
        "width": width,
        "height": height,
        **_steps(post, sampler, card),
        "sampler": sampler,
        "eta": _eta(post.eta, sampler, card),
        "seed": seed,
        "output_format": output_format,
        "num_images": post.num_images,
        "priority": post.priority,
        "deadline_ms": post.deadline_ms,
        "determinism": post.determinism,
        "preview_every": post.preview_every,
        "webhook_url": post.webhook_url,
    }
    if isinstance(post, Prompted) and post.loras:
        values["loras"] = [_applied(lora, known.loras, card) for lora in post.loras]
    if isinstance(post, Drawn) and post.controls:
        values["controls"] = _applied_controls(post.controls, known.controlnets, card, pictures.uploads)
        for control in values["controls"]:
            check_control_size(control.id, (control.image.width, control.image.height), (width, height))
    uploads = {name: upload for name, upload in pictures.uploads.items() if not name.startswith(CONTROL)}
    return parse_request(values | body.task.resolve(post, card) | uploads)


def _applied(post: LoraPost, known: Mapping[str, LoraCard], model: ModelCard) -> AppliedLora:
    lora = _known(post.id, known, model, "LoRA", "loras")
    return AppliedLora(id=lora.id, scale=post.scale, hash=lora.hash)


def _applied_controls(
    posts: Sequence[ControlPost],
    known: Mapping[str, ControlNetCard],
    model: ModelCard,
    uploads: Mapping[str, Upload],
) -> list[AppliedControl]:
    cards = [_known(post.id, known, model, "ControlNet", "controls") for post in posts]
    return [
        AppliedControl(**post.model_dump(), hash=card.hash, image=uploads[control_name(i)])
        for i, (post, card) in enumerate(zip(posts, cards, strict=True))
    ]


def _known(name: str, known: Mapping[str, A], model: ModelCard, what: str, field: str) -> A:
    """Find the card of an add-on that fits a model.

    Raises:
        NotFound: it isn't known.
        InvalidRequest: it can't be used, or not with this model.
    """
    if "prompt" not in model.fields:
        raise InvalidRequest(f"{field} are of no use to model {model.id}", field=field, bound=list(model.fields))
    card = known.get(name)
    if card is None:
        listed = ", ".join([*known][:SHOWN_ADD_ONS]) or "none"
        more = f" and {len(known) - SHOWN_ADD_ONS} more" if len(known) > SHOWN_ADD_ONS else ""
        bound = "GET /v1/loras" if field == "loras" else "GET /v1/controlnets"
        raise NotFound(f"no {what} {shown(name)!r}; known ones: {listed}{more}", field=field, value=name, bound=bound)
    if card.unserved is not None:
        raise InvalidRequest(f"{what} {card.id} can't be used: {card.unserved}", field=field, value=card.id)
    widths = (card.context_width, model.context_width)
    if None not in widths and widths[0] != widths[1]:
        of = card.family or "another family"
        detail = (
            f"{what} {card.id} is for {of}, with a context of width {widths[0]}; model {model.id} reads {widths[1]}"
        )
        raise InvalidRequest(detail, field=field, value=card.id, bound=widths[1])
    return card


def _check_fields(body: Body, card: ModelCard) -> None:
    foreign = body.task.model_fields & body.post.model_fields_set - set(card.fields)
    sent = {field: getattr(body.post, field) for field in sorted(foreign)}
    for field, value in sent.items():
        if value is not None:
            raise InvalidRequest(
                f"{field} is of no use to model {card.id}, which uses {', '.join(card.fields)}",
                field=field,
                value=value,
                bound=list(card.fields),
            )


def _sampler(name: str | None, card: ModelCard) -> str:
    sampler = card.defaults.sampler if name is None else name
    if sampler not in card.samplers:
        can = ", ".join(card.samplers)
        raise InvalidRequest(
            f"model {card.id} can't run sampler {sampler!r}; it runs {can}",
            field="sampler",
            value=sampler,
            bound=list(card.samplers),
        )
    return sampler


def _eta(sent: float | None, sampler: str, card: ModelCard) -> float:
    if sampler in ETA:
        own = sampler == card.defaults.sampler or not ETA[sampler]
        default = card.defaults.eta if own else ETA[sampler]
        return default if sent is None else sent
    if sent:
        can = ", ".join(ETA)
        raise InvalidRequest(f"eta is of no use to sampler {sampler}; {can} use it", field="eta", value=sent, bound=can)
    return 0.0


def _steps(post: Post, sampler: str, card: ModelCard) -> dict[str, Any]:
    """Return how many steps there are and where: a schedule, a list, or the checkpoint's own spacing."""
    most = ORIGINAL_STEPS.get(sampler)
    if post.timesteps is not None:
        return {"steps": len(post.timesteps), "timesteps": _timesteps(post, post.timesteps)}
    steps = post.steps or (card.defaults.steps if most is None else min(card.defaults.steps, most))
    if most is not None and steps > most:
        raise InvalidRequest(
            f"steps is {steps}; sampler {sampler} takes 1 to {most}", field="steps", value=steps, bound=[1, most]
        )
    if most is not None and post.schedule is not None:
        detail = f"schedule is {post.schedule!r}; sampler {sampler} has timesteps of its own, or takes a list of them"
        raise InvalidRequest(detail, field="schedule", value=post.schedule, bound=None)
    own = card.defaults.schedule if sampler == card.defaults.sampler and most is None else None
    return {"steps": steps, "schedule": post.schedule or own}


def _timesteps(post: Post, timesteps: Sequence[int]) -> tuple[int, ...]:
    for field, sent in (("steps", post.steps), ("schedule", post.schedule)):
        if sent is not None:
            detail = f"timesteps say which steps there are; leave out {field}, which is {sent}"
            raise InvalidRequest(detail, field=field, value=sent, bound=None)
    if any(later >= t for t, later in pairwise(timesteps)):
        detail = "timesteps must fall, each below the one before it"
        raise InvalidRequest(detail, field="timesteps", value=list(timesteps), bound="falling")
    return tuple(timesteps)


def warnings_of(request: JobRequest, card: ModelCard, folder: Path | None) -> tuple[JobWarning, ...]:
    """Quote what the model won't read or use."""
    texts: Mapping[str, str] = {"prompt": request.text, "negative_prompt": request.negative_text}
    found = []
    for field, text in texts.items():
        cut = count_tokens(card, folder, text).cut if text else None
        if cut is not None:
            message = f"{field} is longer than the model's {card.token_window} tokens; cut: “{cut}”"
            found.append(JobWarning(field=field, message=message))
    if request.negative_text and not request.guided:
        at = f"at guidance_scale {request.guidance:g}"
        message = f"negative_prompt has no effect {'on this model' if card.guidance_embedded else at}"
        found.append(JobWarning(field="negative_prompt", message=message))
    return tuple(found)
