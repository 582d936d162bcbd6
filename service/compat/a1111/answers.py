"""What the web UI's clients read: images, lists, progress, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from core.errors import Problem


class ImagesAnswer(BaseModel):
    """Pictures, what was asked for, and what they are."""

    images: list[str] = Field(description="PNG files as base64.")
    parameters: dict[str, Any] = Field(description="The request as it was sent, without its pictures.")
    info: str = Field(description="JSON as text: seeds, sizes, infotexts.")


class ExtraSingleAnswer(BaseModel):
    """An enlarged picture."""

    html_info: str
    image: str


class ExtraBatchAnswer(BaseModel):
    """Enlarged pictures."""

    html_info: str
    images: list[str]


class PngInfoAnswer(BaseModel):
    """The text of a picture."""

    info: str = Field(description="The `parameters` text; empty if there is none.")
    items: dict[str, str]
    parameters: dict[str, str] = Field(description="That text, cut into its fields.")


class SamplerItem(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str] = {}


class SchedulerItem(BaseModel):
    """A set of noise levels."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float = -1
    need_inner_model: bool = False


class ModelItem(BaseModel):
    """A checkpoint that draws."""

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str
    config: str | None = None


class UpscalerItem(BaseModel):
    """A way to enlarge a picture."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = 4


class LoraItem(BaseModel):
    """A LoRA."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any] = {}


class EmbeddingItem(BaseModel):
    """An embedding: how wide it is, of how many vectors; what it was trained on isn't known."""

    step: None = None
    sd_checkpoint: None = None
    sd_checkpoint_name: None = None
    shape: int
    vectors: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings by their names."""

    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


class ProgressState(BaseModel):
    """What the current job does."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressAnswer(BaseModel):
    """How far the oldest of the caller's own jobs is."""

    progress: float = 0.0
    eta_relative: float = 0.0
    state: ProgressState = ProgressState()
    current_image: str | None = None
    textinfo: str | None = None


class A1111Error(BaseModel):
    """The web UI's form of a problem."""

    error: str
    detail: str
    body: str = ""
    errors: str


def error_response(problem: Problem, headers: Mapping[str, str]) -> Response:
    """Answer a problem; who lacks a key is asked for one by HTTP Basic, where it is the password."""
    body = A1111Error(error=problem.title, detail=problem.detail, errors=problem.detail)
    answered = dict(headers)
    if "WWW-Authenticate" in answered:
        answered["WWW-Authenticate"] = 'Basic realm="latentd: the password is an API key"'
    return JSONResponse(body.model_dump(), problem.status, answered)
