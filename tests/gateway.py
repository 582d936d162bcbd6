"""A real gateway over HTTP in a thread of the test, with cards but no worker: jobs stay queued."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from redis import Redis
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from contract.card import CardDefaults, ModelCard
from contract.job import ImageInfo, JobRecord, JobResult, Timings, image_id
from contract.redis_keys import ENDED_CHANNEL, events_key, job_key, work_key
from contract.uploads import Upload
from core.errors import Problem
from core.settings import Settings
from core.storage import Store, image_path
from service.app import Server, configure, create_app
from tests.redis_server import RedisServer

WINDOW = 8

PAINTER = ModelCard(
    id="painter",
    description="Paints.",
    hash="0" * 64,
    tasks=("txt2img", "inpaint"),
    native_size=64,
    latent_factor=8,
    defaults=CardDefaults(steps=20, sampler="ddim", guidance_scale=4.0),
    fields=(
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "steps",
        "guidance_scale",
        "sampler",
        "eta",
        "strength",
        "mask_mode",
        "feather",
    ),
    prediction_type="v",
    samplers=("ddim", "plms", "euler"),
    token_window=WINDOW,
    tokenizer="tokenizer/tokenizer.json",
    licence="Apache-2.0",
)
UPSCALER = ModelCard(
    id="upscaler",
    description="Makes four times larger.",
    hash="1" * 64,
    tasks=("upscale",),
    native_size=256,
    latent_factor=4,
    scale=4,
    defaults=CardDefaults(steps=8, sampler="ddim"),
    fields=("steps", "sampler", "eta"),
    prediction_type="v",
    samplers=("ddim", "euler"),
    licence="Apache-2.0",
)


def write_tokenizer(path: Path) -> None:
    """A word-level tokenizer with BERT's two special tokens."""
    words = ["[UNK]", "[CLS]", "[SEP]", "red", "heart", "on", "a", "navy", "background", "with", "stars"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_truncation(WINDOW)
    path.parent.mkdir(parents=True)
    tokenizer.save(str(path))


def with_text(**texts: str) -> bytes:
    """A PNG with these text chunks, by keyword."""
    chunks, data = PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        chunks.add_itxt(keyword, text) if not text.isascii() else chunks.add_text(keyword, text)
    Image.new("RGB", (16, 16), "navy").save(data, "PNG", pnginfo=chunks)
    return data.getvalue()


def write_cards(folder: Path, *cards: ModelCard) -> Path:
    """A models directory that holds cards and tokenizers, but no weights."""
    for card in cards:
        (folder / card.id).mkdir(parents=True)
        (folder / card.id / "card.json").write_text(card.model_dump_json(), "utf-8")
        if card.tokenizer:
            write_tokenizer(folder / card.id / card.tokenizer)
    return folder


def settings_for(redis_url: str, folder: Path, *cards: ModelCard, **changes: object) -> Settings:
    """Settings with everything under `folder`."""
    models_dir = folder / "models"
    if not models_dir.exists():
        models_dir.mkdir()
        write_cards(models_dir, *(cards or (PAINTER, UPSCALER)))
    values: dict[str, object] = {"model": "painter", "max_wait_s": 5.0} | changes
    return Settings.model_validate(
        {"redis_url": redis_url, "data_dir": folder / "data", "models_dir": models_dir} | values
    )


@contextmanager
def running(settings: Settings, app: FastAPI | None = None) -> Iterator[httpx2.Client]:
    """A client of a gateway that listens on a free port until the block ends."""
    app = app or create_app(settings)
    config = configure(app)
    config.port, config.timeout_graceful_shutdown = 0, 1
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the gateway didn't start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        app.state.gateway.stopping.set()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the gateway hasn't stopped"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's gateway keeps everything."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    """What is set for the module's gateway; modules that want something have a fixture of this name."""
    return {}


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer, folder: Path, gateway_settings: dict[str, object]) -> Iterator[httpx2.Client]:
    """A client of the module's gateway, on an emptied server: what other modules left, keys above all, is gone."""
    with redis_server.connect() as redis:
        redis.flushall()
    with running(settings_for(redis_server.url, folder, **gateway_settings)) as started:
        yield started


@pytest.fixture
def client(gateway: httpx2.Client, redis: Redis) -> httpx2.Client:
    """A client of the module's gateway on an emptied Redis."""
    assert redis.dbsize() == 0
    return gateway


def png(size: tuple[int, int] = (16, 16), colour: object = (200, 30, 30), mode: str = "RGB") -> bytes:
    """A one-coloured picture."""
    data = io.BytesIO()
    Image.new(mode, size, colour).save(data, "PNG")  # type: ignore[arg-type]
    return data.getvalue()


def mask(size: tuple[int, int] = (16, 16), inside: bool = True) -> bytes:
    """A black mask with a white square in its middle, if `inside`."""
    picture = Image.new("L", size, 0)
    if inside:
        picture.paste(255, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def same_pixels(stored: bytes, sent: bytes) -> bool:
    """Whether two files show the same picture, byte for byte once decoded."""
    one, other = (Image.open(io.BytesIO(each)) for each in (stored, sent))
    return (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())


def finish(redis: Redis, store: Store, job_id: str, data: bytes) -> None:
    """Store one PNG and write the keys of a succeeded job, as a worker's terminal transaction does."""
    record = JobRecord.model_validate_json(_text(redis.hget(job_key(job_id), "record")))
    request = record.request
    image = ImageInfo(
        id=image_id(job_id, 0),
        url=f"/v1/images/{image_id(job_id, 0)}",
        seed=request.seed,
        width=request.width,
        height=request.height,
        format=request.output_format,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    store.put(image_path(job_id, "execution", 0, request.output_format), data)
    result = JobResult(execution="execution", images=(image,), timings=Timings(denoise_s=1.0))
    _end(redis, record, "succeeded", {"result": result.to_json(), "step": str(request.steps)})


def upload_of(redis: Redis, job_id: str, name: str = "image") -> Upload:
    """An upload of a job, as its record has it."""
    record = JobRecord.model_validate_json(_text(redis.hget(job_key(job_id), "record")))
    return record.request.files[name]


def fail(redis: Redis, job_id: str, problem: Problem) -> None:
    """Write the keys of a failed job."""
    record = JobRecord.model_validate_json(_text(redis.hget(job_key(job_id), "record")))
    _end(redis, record, "failed", {"error": problem.model_dump_json()})


def _end(redis: Redis, record: JobRecord, status: str, fields: dict[str, str]) -> None:
    now = datetime.now(UTC).isoformat()
    with redis.pipeline() as pipe:
        for field, value in {**fields, "status": status, "started_at": now, "ended_at": now}.items():
            pipe.hset(job_key(record.id), field, value)
        pipe.hdel(work_key(record.request.model, record.request.priority), record.id)
        pipe.xadd(events_key(record.id), {"type": status, "data": "{}"})
        pipe.publish(ENDED_CHANNEL, record.id)
        pipe.execute()


def _text(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode()
