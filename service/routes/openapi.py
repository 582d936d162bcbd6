"""The OpenAPI document's parts that FastAPI can't derive: bodies in two encodings, problems, pictures, streams."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contract.add_ons import MAX_CONTROLS
from contract.job import Job
from contract.uploads import control_name
from core.errors import Problem
from service.http.problems import MEDIA_TYPE
from service.jobs.payloads import EVENTS
from service.requests.kinds import KINDS, TaskKind
from service.requests.posts import BoxPost, ControlPost, HiresPost, LoraPost
from service.requests.preferences import MEDIA_TYPES
from service.webhooks.outbox import JobEnded

Responses = dict[int | str, dict[str, Any]]

PROBLEMS: dict[int, str] = {
    400: "The body can't be read as what its content type says.",
    401: "Keys are on, and no API key that is known was sent.",
    403: "Unknown Host, a foreign Origin, a key without the scope, or a signed URL that has expired.",
    404: "No such job, image or model.",
    406: "Accept names nothing that the call answers: JSON, PNG, JPEG or WebP.",
    408: "The body comes too slowly.",
    409: "A reused Idempotency-Key, a job that still runs, or no checkpoint for the task.",
    410: "The job or image expired or was purged.",
    413: "The body is larger than LATENTD_MAX_BODY_MB.",
    415: "The content type is none that the endpoint reads.",
    422: "A field is unknown, missing, out of bounds, or of no use to the kind or model.",
    429: "The lane is full, its wait makes the deadline impossible, the key's rate or budget is used up, or as many "
    "event streams are open as may be; Retry-After says when to try again.",
    431: "The address and headers are too long.",
    500: "The job that was waited for failed, or the stored image is damaged.",
    503: "Redis or the object storage doesn't answer, Redis is full, or its decoders are busy (with Retry-After).",
    504: "The job that was waited for missed its deadline.",
    507: "The storage's disk is full.",
}
KEY = {"type": "http", "scheme": "bearer", "description": "An API key, where keys are on (`latentd keys create`)."}
PASSWORD = {"type": "http", "scheme": "basic", "description": "The same key as a password, with any user name."}
OTHER_APIS = frozenset(("openai", "a1111"))
TAGS = [
    {"name": "tasks", "description": "Requests that become jobs."},
    {"name": "jobs", "description": "Jobs, their events, and where their time went."},
    {"name": "images", "description": "The bytes of images."},
    {"name": "models", "description": "What is installed."},
    {"name": "openai", "description": "OpenAI's Images API, for its clients: calls that wait, errors in its form."},
    {"name": "a1111", "description": "AUTOMATIC1111's API, for its clients: calls that wait, errors in its form."},
]


def _sent_header(name: str, description: str) -> dict[str, Any]:
    """Describe a header that a webhook carries."""
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}


_JOB_ENDED = {
    "operationId": "job_ended",
    "summary": "A job has ended",
    "description": "Sent to the job's `webhook_url`, with the headers of Standard Webhooks, at least once. `data` is "
    "the job as GET /v1/jobs/{id} answers it.",
    "parameters": [
        _sent_header("webhook-id", "Of the message, the same in every try: drop those that you have seen."),
        _sent_header("webhook-timestamp", "Seconds since 1970 of this try: refuse old ones."),
        _sent_header(
            "webhook-signature",
            "v1, and base64 of HMAC-SHA256 over `id.timestamp.body` with the bytes of LATENTD_WEBHOOK_SECRET.",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobEnded"}}},
    },
    "responses": {
        "2XX": {"description": "Taken."},
        "410": {"description": "Nobody listens any more: it isn't tried again."},
        "default": {"description": "Tried again, up to eight times."},
    },
}
REFERENCE = "#/components/schemas/{model}"
BINARY = {"type": "string", "format": "binary"}


def problems(*statuses: int, model: type[BaseModel] = Problem) -> Responses:
    """Describe the problem responses of a route, those of every route included; `model` is their form."""
    return {
        status: {"model": model, "description": PROBLEMS[status]}
        for status in sorted({*statuses, 401, 403, 422, 429, 431, 503})
    }


def task_responses(answer: Any) -> Responses:
    """Describe what a POST of any kind answers; `answer` is the model of a 200's JSON."""
    headers = {
        "Location": {"description": "/v1/jobs/{id}", "schema": {"type": "string"}},
        "Idempotency-Replayed": {
            "description": "true if an earlier request made the job",
            "schema": {"type": "string"},
        },
        "Preference-Applied": {"description": "wait=N as it was applied", "schema": {"type": "string"}},
    }
    # JSON first: generators of clients take the first that they know.
    content = {"application/json": {}, **{media: {"schema": BINARY} for media in MEDIA_TYPES.values()}}
    return {
        200: {
            "model": answer,
            "description": "Waited for: the finished job, or its image's bytes. With dry_run: the plan.",
            "content": content,
            "headers": headers,
        },
        202: {"description": "Accepted; not finished.", "model": Job, "headers": headers},
        **problems(400, 404, 406, 408, 409, 410, 413, 415, 429, 500, 504, 507),
    }


def task_body(task: TaskKind[Any]) -> dict[str, Any]:
    """Describe the request body of a kind, as JSON and, where it has pictures, as a form."""
    content: dict[str, Any] = {
        "application/json": {"schema": _reference(task.post.__name__), "examples": task.examples}
    }
    if task.in_forms:
        content["multipart/form-data"] = {"schema": _reference(_form_name(task))}
    headers = [
        _header("Prefer", "wait=N: answer when the job ends, or after N seconds.", "wait=30"),
        _header("Idempotency-Key", "The same key and body give the same job.", "order-4711"),
    ]
    return {"requestBody": {"required": True, "content": content}, "parameters": headers}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=name)}


def _form_name(task: TaskKind[Any]) -> str:
    return task.post.__name__.removesuffix("Post") + "Form"


def _bodies(task: TaskKind[Any]) -> dict[str, Any]:
    """Name the schemas of a kind's bodies: generated clients call their classes so."""
    found = {task.post.__name__: _schema(task, task.post.__name__, _base64_picture())}
    return {**found, **({_form_name(task): _schema(task, _form_name(task), BINARY)} if task.in_forms else {})}


def _schema(task: TaskKind[Any], title: str, picture: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {**task.post.model_json_schema(ref_template=REFERENCE), "title": title}
    schema.pop("$defs", None)  # named beside it
    controls = [control_name(i) for i in range(MAX_CONTROLS)] if task.controlled and picture is BINARY else []
    schema["properties"] |= dict.fromkeys([*task.files, *controls], picture)
    schema["required"] = [*schema.get("required", []), *task.files]
    return schema


def _base64_picture() -> dict[str, Any]:
    description = "A PNG, JPEG or WebP file as base64; a data: prefix is accepted."
    return {"type": "string", "contentEncoding": "base64", "description": description}


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _named_schemas() -> dict[str, Any]:
    """Collect the schemas that only other parts of the document name: bodies and what events carry."""
    models: list[Any] = [(model, "serialization") for model in (*EVENTS.values(), JobEnded)]
    models += [(post, "validation") for post in (LoraPost, ControlPost, HiresPost, BoxPost)]
    _, events = models_json_schema(models, ref_template=REFERENCE)
    control = events["$defs"]["ControlPost"]  # in forms its picture is a file beside it
    control["properties"]["image"] = _base64_picture()
    return {**events["$defs"], **{name: body for task in KINDS.values() for name, body in _bodies(task).items()}}


def install(app: FastAPI, prefix: str) -> None:
    """Serve the document with problems under their own media type, and webhooks; `prefix` is the public URL's path."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            document["components"]["securitySchemes"] = {"key": KEY, "password": PASSWORD}
            document["components"]["schemas"] |= _named_schemas()
            document["tags"] = TAGS
            document["webhooks"] = {"job-ended": {"post": _JOB_ENDED}}
            if prefix:
                document["servers"] = [{"url": prefix}]
            for path in document["paths"].values():
                for operation in path.values():
                    _mark_problems(operation)
                    _mark_key(operation)
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _mark_key(operation: dict[str, Any]) -> None:
    """Ask for a key, or none where keys are off."""
    if "401" in operation["responses"]:
        password: list[dict[str, list[str]]] = [{"password": []}] if "a1111" in operation.get("tags", ()) else []
        operation["security"] = [{"key": []}, *password, {}]


def _mark_problems(operation: dict[str, Any]) -> None:
    """Give problems their media type; errors of other APIs have a form of their own."""
    if OTHER_APIS & set(operation.get("tags", ())):
        return
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
