"""Drawing without any server: a request is resolved as a gateway does, and run as a worker does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from core.errors import InvalidRequest
from core.settings import Settings
from latentd.cli.drawing.order import Order
from latentd.cli.drawing.outputs import Drawn, paths_for, progress_bar, warn, write
from latentd.cli.environment import check_model

if TYPE_CHECKING:
    from PIL.Image import Image

    from contract.card import ModelCard
    from contract.job import JobWarning
    from contract.request import JobRequest
    from service.requests.bodies import Body
    from service.requests.resolution import Known
    from service.requests.uploads import Pictures


def draw(order: Order, settings: Settings, device: str) -> None:
    """Draw an order on `device` and write its files."""
    request, card, files, warnings = resolve(order, settings)
    paths = paths_for(order.out, request.num_images, force=order.force)
    warn(warning.message for warning in warnings)
    pictures = compute(request, files, settings, device)
    told = request.for_clients().model_dump(mode="json")
    write(_encoded(pictures, request, card), paths, told, force=order.force, json=order.json)


def resolve(
    order: Order, settings: Settings
) -> tuple[JobRequest, ModelCard, Mapping[str, bytes], tuple[JobWarning, ...]]:
    """The request with every parameter, its model's card, what a service would store of the files, what to warn of."""
    from service.http.problems import invalid
    from service.requests.bodies import Body
    from service.requests.cards import (
        card_folders,
        choose_card,
        installed_cards,
        installed_controlnets,
        installed_embeddings,
        installed_loras,
    )
    from service.requests.kinds import KINDS
    from service.requests.resolution import Known, warnings_of
    from workers.library.catalogue import write_missing_cards

    write_missing_cards(settings.models_dir)
    post = KINDS[order.kind].post
    try:
        body = Body(order.kind, post.model_validate(order.fields), order.read_files())
    except ValidationError as error:
        raise invalid(error, post) from error
    cards = installed_cards(settings.models_dir)
    if body.post.model is None:
        check_model(settings, cards)
    card = choose_card(cards, order.kind, body.post.model, settings.model)
    place = settings.models_dir
    known = Known(installed_loras(place), installed_embeddings(place), installed_controlnets(place), cards)
    request, pictures = _planned(body, card, order, settings, known)
    folder = card_folders(settings.models_dir).get(card.id)
    warnings = (*pictures.warnings, *warnings_of(request, card, folder, known.vectors(request)))
    return request, card, pictures.data, warnings


def _planned(
    body: Body, card: ModelCard, order: Order, settings: Settings, known: Known
) -> tuple[JobRequest, Pictures]:
    """Raises InvalidRequest, of a picture by its path."""
    from jobs.create import drawn_seed
    from service.requests.resolution import resolve
    from service.requests.uploads import read_pictures

    seed = drawn_seed() if body.post.seed is None else body.post.seed
    try:
        pictures = read_pictures(body, card, "command", settings.max_pixels)
        output_format = body.post.output_format or "png"
        return resolve(body, card, pictures, seed, output_format, settings.max_pixels, known), pictures
    except InvalidRequest as error:
        detail = order.by_path(error.field, error.detail)
        raise InvalidRequest(detail, field=error.field, value=error.value, bound=error.bound) from error


def compute(request: JobRequest, files: Mapping[str, bytes], settings: Settings, device: str) -> list[Image]:
    """Load the model, run the job under a progress bar and return its pictures."""
    from contract.stages import models_of
    from workers.engine.engine import run
    from workers.engine.kinds import read_files
    from workers.engine.messages import Admission, Outcome, Stepped
    from workers.library.loading import load_engine

    with progress_bar() as progress:
        bar = progress.add_task(f"{request.kind} seed {request.seed}", total=request.run_steps)

        def on_outcome(outcome: Outcome) -> None:
            if isinstance(outcome, Stepped):
                progress.update(bar, completed=outcome.step, total=outcome.steps)

        engine = load_engine(settings, models_of(request), device)
        return run(engine, Admission("command", request, read_files(request, files)), on_outcome)


def _encoded(pictures: list[Image], request: JobRequest, card: ModelCard) -> Iterator[Drawn]:
    from workers.engine.pictures import encode_picture, picture_text

    for index, picture in enumerate(pictures):
        data = encode_picture(picture, request.output_format, picture_text(request, index, card.hash))
        yield Drawn(data, picture.width, picture.height, request.seeds[index])
