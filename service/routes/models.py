"""GET /v1/models and /v1/models/{id}: the cards of all checkpoints, and which are loaded."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from service.requests.cards import ListedCard, find_card
from service.routes.openapi import problems
from service.state import Current

router = APIRouter(prefix="/v1/models", tags=["models"])


class ModelList(BaseModel):
    """All models; `default` is the one of requests that name none, where it has the task."""

    items: list[ListedCard]
    next_cursor: None = None
    default: str


@router.get("", name="list_models", summary="All models", responses=problems())
async def models(gateway: Current) -> ModelList:
    cards = gateway.cards
    items = [await cards.listed(card) for card in (await cards.all()).values()]
    return ModelList(items=items, default=gateway.settings.model)


@router.get("/{id}", name="get_model", summary="One model", responses=problems(404))
async def model(id: str, gateway: Current) -> ListedCard:
    return await gateway.cards.listed(find_card(await gateway.cards.all(), id))
