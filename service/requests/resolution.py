"""A post and a model card → the resolved request: defaults of the model, refusals of what it can't do, warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from contract.add_ons import AppliedControl, AppliedEmbedding, AppliedLora
from contract.card import ControlNetCard, EmbeddingCard, LoraCard, ModelCard
from contract.common import WHOLE, OutputFormat
from contract.job import JobWarning
from contract.prompts import named, split_loras
from contract.request import JobRequest, parse_request
from contract.samplers import ETA, MOST_TIMESTEPS, ORIGINAL_STEPS
from contract.stages import stages
from contract.uploads import CONTROL, Upload, control_name
from core.errors import InvalidRequest, NotFound
from core.pictures import check_control_size, check_sides
from service.http.problems import shown
from service.requests.bodies import Body
from service.requests.parameters import second_pass
from service.requests.posts import MAX_LORAS, ControlPost, Drawn, LoraPost, Post, Prompted, Txt2ImgPost
from service.requests.tokens import Tokens, count_chunks, count_tokens
from service.requests.uploads import Pictures

AS_SENT = ("num_images", "priority", "deadline_ms", "determinism", "preview_every", "webhook_url")
SHOWN_ADD_ONS = 20  # of those that are known, in a refusal
A = TypeVar("A", LoraCard, ControlNetCard)


@dataclass(frozen=True, slots=True)
class Known:
    """What requests may name beside a model: LoRAs, ControlNets and models that enlarge by id, embeddings by name."""

    loras: Mapping[str, LoraCard]
    embeddings: Mapping[str, EmbeddingCard]
    controlnets: Mapping[str, ControlNetCard]
    models: Mapping[str, ModelCard]

    def vectors(self, request: JobRequest) -> dict[str, int]:
        """Count the vectors of the embeddings that a request names, by their lower-case names."""
        return {each.name.lower(): self.embeddings[each.name].vectors for each in request.applied_embeddings}


NOTHING = Known({}, {}, {}, {})


def resolve(
    body: Body,
    card: ModelCard,
    pictures: Pictures,
    seed: int,
    output_format: OutputFormat,
    max_pixels: int,
    known: Known = NOTHING,
) -> JobRequest:
    """Fill in every parameter.

    Raises:
        InvalidRequest: a field, sampler, size, prompt, add-on or map that the model, the format or the service can't
            do.
        NotFound: a LoRA, ControlNet or upscaler that isn't known.
    """
    _check_fields(body, card)
    width, height = body.task.size(body.post, card, pictures.size)
    sized_by = "image" if body.task.files else "width" if width >= height else "height"
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
        **{name: getattr(post, name) for name in AS_SENT},
    }
    if isinstance(post, Drawn) and post.controls:
        size = (width, height)
        values["controls"] = _applied_controls(post.controls, known.controlnets, card, pictures.uploads, size)
    if isinstance(post, Txt2ImgPost):
        values["hires"] = second_pass(post, values, card, known.models, max_pixels)
    uploads = {name: upload for name, upload in pictures.uploads.items() if not name.startswith(CONTROL)}
    values |= body.task.resolve(post, card) | uploads
    return parse_request(values | _texts(post, values, card, known) if isinstance(post, Prompted) else values)


def _texts(post: Prompted, values: Mapping[str, Any], card: ModelCard, known: Known) -> dict[str, Any]:
    """Resolve what the texts name, and say how they are read."""
    texts = {name: values[name] or "" for name in ("prompt", "negative_prompt")}
    loras, clip = list(post.loras or ()), "prompt_syntax" in card.fields
    if post.prompt_syntax == "weighted":
        if not clip:
            detail = f"prompt_syntax is weighted; model {card.id} has no text encoder of CLIP and reads plain prompts"
            raise InvalidRequest(detail, field="prompt_syntax", value=post.prompt_syntax, bound="plain")
        texts["prompt"], tags = split_loras(texts["prompt"])
        loras = _with_tags(loras, tags, known.loras)
    resolved: dict[str, Any] = {"prompt": texts["prompt"], "loras": [_applied(x, known.loras, card) for x in loras]}
    if clip:
        embeddings = _embeddings(texts, post, card, known.embeddings)
        resolved |= {"prompt_syntax": post.prompt_syntax, "clip_skip": post.clip_skip, "embeddings": embeddings}
    return resolved


def _with_tags(
    loras: list[LoraPost], tags: Sequence[tuple[str, str | None]], known: Mapping[str, LoraCard]
) -> list[LoraPost]:
    """Add the LoRAs that a prompt names, within the bounds of the field `loras`."""
    for name, scale in tags:
        try:
            loras.append(LoraPost.model_validate({"id": lora_named(name, known), "scale": scale or 1.0}))
        except ValidationError as error:
            detail = f"<lora:{name}:{scale or ''}> in prompt: must be <lora:ID:SCALE>, {error.errors()[0]['msg']}"
            raise InvalidRequest(detail, field="prompt", value=scale, bound="<lora:ID:SCALE>") from error
    ids = [lora.id for lora in loras]
    if len(set(ids)) < len(ids) or len(ids) > MAX_LORAS:
        detail = f"prompt and loras name {', '.join(ids)}: must be each LoRA once, at most {MAX_LORAS}"
        raise InvalidRequest(detail, field="loras", value=ids, bound=MAX_LORAS)
    return loras


def lora_named(name: str, known: Mapping[str, LoraCard]) -> str:
    """Return the id of the LoRA that a prompt calls so: by its id, else by its file's name, else by its training's.

    One that is nobody's is returned as an id would be made of it.

    Raises:
        InvalidRequest: several have it.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    stems = [card.id for card in known.values() if card.names[:1] == (name,)]
    found = stems or [card.id for card in known.values() if name in card.names]
    if name in known or plain in known or not found:
        return name if name in known else plain
    if len(found) > 1:
        detail = f"<lora:{name}> names {', '.join(found)}; choose by id"
        raise InvalidRequest(detail, field="prompt", value=name, bound=found)
    return found[0]


def _embeddings(
    texts: Mapping[str, str], post: Prompted, card: ModelCard, known: Mapping[str, EmbeddingCard]
) -> list[AppliedEmbedding]:
    """Find the embeddings that the texts name."""
    by_name = {embedding.name.lower(): embedding for embedding in known.values()}
    found = [name for where, text in texts.items() for name in named(text, post.prompt_syntax, by_name, where)]
    return [_embedding(by_name[name], card) for name in sorted(set(found))]


def _embedding(embedding: EmbeddingCard, model: ModelCard) -> AppliedEmbedding:
    if embedding.unserved is not None:
        detail = f"embedding {embedding.name!r} can't be used: {embedding.unserved}"
        raise InvalidRequest(detail, field="prompt", value=embedding.name)
    width = sum(embedding.widths)
    if model.context_width is not None and width != model.context_width:
        of = embedding.family or "another family"
        detail = f"embedding {embedding.name!r} is for {of}, {width} wide; model {model.id} reads {model.context_width}"
        raise InvalidRequest(detail, field="prompt", value=embedding.name, bound=model.context_width)
    return AppliedEmbedding(name=embedding.name, hash=embedding.hash)


def _applied(post: LoraPost, known: Mapping[str, LoraCard], model: ModelCard) -> AppliedLora:
    lora = _known(post.id, known, model, "LoRA", "loras")
    return AppliedLora(id=lora.id, scale=post.scale, hash=lora.hash)


def _applied_controls(
    posts: Sequence[ControlPost],
    known: Mapping[str, ControlNetCard],
    model: ModelCard,
    uploads: Mapping[str, Upload],
    size: tuple[int, int],
) -> list[AppliedControl]:
    """Find the ControlNets, each with its picture, which is to have the answer's size."""
    cards = [_known(post.id, known, model, "ControlNet", "controls") for post in posts]
    applied = [
        AppliedControl(**post.model_dump(), hash=card.hash, image=uploads[control_name(i)])
        for i, (post, card) in enumerate(zip(posts, cards, strict=True))
    ]
    for control in applied:
        check_control_size(control.id, (control.image.width, control.image.height), size)
    return applied


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
        first = card.defaults.sampler
        own = sampler == first or not (first in ETA or ETA[sampler])  # tcd's γ is none of ddim's share of noise
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


def tokens_of(
    request: JobRequest, card: ModelCard, folder: Path | None, text: str, vectors: Mapping[str, int]
) -> Tokens:
    """Count the tokens of a text as this request has it read; `vectors` are those of `Known`."""
    if request.syntax == "plain" and not vectors:
        return count_tokens(card, folder, text)
    return count_chunks(card, folder, text, request.syntax, vectors)


def warnings_of(
    request: JobRequest, card: ModelCard, folder: Path | None, vectors: Mapping[str, int] = MappingProxyType({})
) -> tuple[JobWarning, ...]:
    """Quote what the model won't read or use; `vectors` are those of `Known`."""
    texts: Mapping[str, str] = {"prompt": request.text, "negative_prompt": request.negative_text}
    found = []
    for field, text in texts.items():
        tokens = tokens_of(request, card, folder, text, vectors) if text else None
        if tokens is not None and tokens.cut is not None:
            room = (card.token_window or 0) - tokens.specials
            message = f"{field} is longer than the {room} tokens that the model reads; cut: “{tokens.cut}”"
            found.append(JobWarning(field=field, message=message))
    unused = _between_steps(request) if request.guided else _without_guidance(request, card)
    return (*found, *unused, *_idle_controls(request))


def _without_guidance(request: JobRequest, card: ModelCard) -> Iterator[JobWarning]:
    """Tell what only guided steps use."""
    used = {
        "image_guidance_scale": request.image_guidance > 1.0,
        "negative_prompt": bool(request.negative_text),
        "guidance_interval": request.guided_within is not None,
        "guidance_rescale": request.rescale > 0.0,
    }
    off = f"at guidance_scale {request.guidance:g}" if request.guidance in (0.0, 1.0) else "without a prompt"
    why = "on this model" if card.guidance_embedded else off
    return (JobWarning(field=name, message=f"{name} has no effect {why}") for name, sent in used.items() if sent)


def _between_steps(request: JobRequest) -> Iterator[JobWarning]:
    """Tell of an interval that the steps of all passes may go by."""
    led = [stage for stage in stages(request) if stage.guided_within is not None]
    if led and all(_guided_steps(stage) < 1 for stage in led):
        message = "guidance_interval is narrower than a step, or none is near it: nothing may be guided"
        yield JobWarning(field="guidance_interval", message=message)


def _guided_steps(request: JobRequest) -> float:
    """Count the steps within the interval, were they evenly spread; those of a list are counted as they are."""
    if request.timesteps is None or request.guided_within is None:
        return request.run_steps // request.num_images * request.guided_share
    low, high = request.guided_within
    return sum(low <= t / (MOST_TIMESTEPS - 1) <= high for t in request.run_timesteps)


def _idle_controls(request: JobRequest) -> Iterator[JobWarning]:
    """Tell of ControlNets that no step of a pass is within, where it is known how many steps that has."""
    for number, stage in enumerate(stages(request)):
        steps, where = stage.run_steps // stage.num_images, " of hires" if number else ""
        for control in stage.applied_controls if stage.span == WHOLE else ():
            if not control.acts_in(steps):
                why = f"no step of {steps}{where} is between start {control.start:g} and end {control.end:g}"
                yield JobWarning(field="controls", message=f"{control.id} has no effect: {why}")
