"""GET /v1/embeddings: the embeddings that prompts may name."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from contract.card import EmbeddingCard
from service.routes.openapi import problems
from service.state import Current

router = APIRouter(prefix="/v1/embeddings", tags=["models"])


class EmbeddingList(BaseModel):
    """All embeddings, those that can't be used with the reason."""

    items: list[EmbeddingCard]
    next_cursor: None = None


@router.get("", name="list_embeddings", summary="All embeddings", responses=problems())
async def embeddings(gateway: Current) -> EmbeddingList:
    return EmbeddingList(items=list((await gateway.embeddings.all()).values()))
