"""A post and a model card → the resolved request: defaults of the model, refusals of what it can't do, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contract.card import LoraCard, ModelCard
from contract.job import JobWarning
from contract.request import AppliedLora, JobRequest, OutputFormat, parse_request
from core.errors import InvalidRequest, NotFound
from core.pictures import check_sides
from service.http.problems import shown
from service.requests.bodies import Body
from service.requests.posts import LoraPost, Prompted
from service.requests.tokens import count_tokens
from service.requests.uploads import Pictures

ETA_SAMPLERS = ("ddim",)
NO_LORAS: Mapping[str, LoraCard] = MappingProxyType({})
SHOWN_LORAS = 20  # of those that are known, in a refusal


def resolve(
    body: Body,
    card: ModelCard,
    pictures: Pictures,
    seed: int,
    output_format: OutputFormat,
    max_pixels: int,
    known_loras: Mapping[str, LoraCard] = NO_LORAS,
) -> JobRequest:
    """Fill in every parameter.

    Raises:
        InvalidRequest: a field, sampler, size or LoRA that the model, the format or the service can't do.
        NotFound: a LoRA that isn't known.
    """
    _check_fields(body, card)
    width, height = body.task.size(body.post, card, pictures.size)
    sized_by = "image" if body.files else "width" if width >= height else "height"
    check_sides((width, height), output_format, max_pixels, sized_by)
    post, defaults = body.post, card.defaults
    sampler = _sampler(post.sampler, card)
    values: dict[str, Any] = {
        "kind": body.kind,
        "model": card.id,
        "width": width,
        "height": height,
        "steps": post.steps or defaults.steps,
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
        values["loras"] = [_applied(lora, known_loras, card) for lora in post.loras]
    return parse_request(values | body.task.resolve(post, card) | dict(pictures.uploads))


def _applied(post: LoraPost, known: Mapping[str, LoraCard], model: ModelCard) -> AppliedLora:
    if "prompt" not in model.fields:
        raise InvalidRequest(f"loras are of no use to model {model.id}", field="loras", bound=list(model.fields))
    lora = known.get(post.id)
    if lora is None:
        listed = ", ".join([*known][:SHOWN_LORAS]) or "none"
        more = f" and {len(known) - SHOWN_LORAS} more" if len(known) > SHOWN_LORAS else ""
        raise NotFound(
            f"no LoRA {shown(post.id)!r}; known ones: {listed}{more}",
            field="loras",
            value=post.id,
            bound="GET /v1/loras",
        )
    if lora.unserved is not None:
        raise InvalidRequest(f"LoRA {lora.id} can't be used: {lora.unserved}", field="loras", value=lora.id)
    widths = (lora.context_width, model.context_width)
    if None not in widths and widths[0] != widths[1]:
        of = lora.family or "another family"
        detail = f"LoRA {lora.id} is for {of}, with a context of width {widths[0]}; model {model.id} reads {widths[1]}"
        raise InvalidRequest(detail, field="loras", value=lora.id, bound=widths[1])
    return AppliedLora(id=lora.id, scale=post.scale, hash=lora.hash)


def _check_fields(body: Body, card: ModelCard) -> None:
    sent = body.post.model_dump(exclude_unset=True, exclude_none=True)
    for field in sorted(body.task.model_fields & sent.keys() - set(card.fields)):
        raise InvalidRequest(
            f"{field} is of no use to model {card.id}, which uses {', '.join(card.fields)}",
            field=field,
            value=sent[field],
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
    if sampler in ETA_SAMPLERS:
        return card.defaults.eta if sent is None else sent
    if sent:
        can = ", ".join(ETA_SAMPLERS)
        raise InvalidRequest(
            f"eta is of no use to sampler {sampler}; {can} uses it", field="eta", value=sent, bound=can
        )
    return 0.0


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
        message = f"negative_prompt has no effect at guidance_scale {request.guidance:g}"
        found.append(JobWarning(field="negative_prompt", message=message))
    return tuple(found)
