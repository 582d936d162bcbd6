"""GET /v1/models and /v1/models/{id}: the cards of all checkpoints, and which are loaded."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.requests.cards import ListedCard, find_card
from service.routes.openapi import problems
from service.state import Current

router = APIRouter(prefix="/v1/models", tags=["models"])


class OpenAIModel(BaseModel):
    """A model as OpenAI's clients list it; when it was made isn't known here."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "latentd"


class ModelList(BaseModel):
    """All models; `default` is the one of requests that name none, where it has the task. `data` is OpenAI's list."""

    items: list[ListedCard]
    next_cursor: None = None
    default: str
    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class OneModel(ListedCard, OpenAIModel):
    """A card, which is OpenAI's model, too."""


@router.get("", name="list_models", summary="All models", responses=problems())
async def models(gateway: Current) -> ModelList:
    cards = gateway.cards
    items = [await cards.listed(card) for card in (await cards.all()).values()]
    data = [OpenAIModel(id=item.id) for item in items]
    return ModelList(items=items, default=gateway.settings.model, data=data)


@router.get("/{id}", name="get_model", summary="One model", responses=problems(404))
async def model(id: str, gateway: Current) -> OneModel:
    listed = await gateway.cards.listed(find_card(await gateway.cards.all(), id))
    return OneModel(**listed.model_dump())
