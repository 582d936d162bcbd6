"""All settings of latentd in one class, read from the environment or `.env`; `latentd settings` prints them."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis import ConnectionPool
from redis.exceptions import RedisError

from core.errors import ConfigurationError
from core.origins import Origin, host_name, parse_network, parse_origin, parse_public_url, parse_webhook_entry

T = TypeVar("T")

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "models" / "weights"

STRICT_ROWS_CPU, STRICT_ROWS_GPU = 4, 16
MAX_PIXELS = 16_777_216
DAY_S = 86_400
TEN_YEARS_S = 3650 * DAY_S  # Redis refuses times beyond its numbers, after half of a job's end was written
SOCKET_PATH_MAX = 100  # the kernel's bound is 108 bytes with the terminating zero


def without_password(url: str) -> str:
    """A Redis URL as it may be shown; of a wrong one rather too much is hidden."""
    return re.sub(r"//.*@", "//***@", re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url, flags=re.IGNORECASE))


class Settings(BaseSettings):
    """Each field is `LATENTD_<NAME>` in the environment, but for `REDIS_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LATENTD_",
        env_file=".env",
        env_ignore_empty=True,  # compose sets what is to be unset to nothing
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        allow_inf_nan=False,
    )

    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis to use; without it `latentd up` starts one of its own.",
    )
    redis_server: Path | None = Field(
        default=None,
        description="The redis-server or valkey-server (7.0 or newer) that `latentd up` starts without REDIS_URL. "
        "Default: the Valkey that is installed with latentd.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port that the gateway listens on.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Host names, beside loopback, that the gateway answers to; comma-separated."
    )
    public_url: str | None = Field(
        default=None,
        description="Where clients reach the gateway, as https://draw.example.org or https://example.org/draw: pages "
        "of that origin may change something, URLs in answers begin with its path, and API keys are on. Default: as "
        "each request's Host and connection say.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses and networks of proxies whose X-Forwarded-Proto is believed, comma-separated; "
        "not needed with LATENTD_PUBLIC_URL.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Other origins whose pages may call the gateway (CORS), comma-separated: https://app.example.org.",
    )
    data_dir: Path = Field(default=Path("data"), description="Where images, uploads and the embedded Redis live.")
    models_dir: Path = Field(default=WEIGHTS_DIR, description="Folder of checkpoints, each with its card.json.")
    model: str = Field(default="emoji", description="Model of requests that name none.")
    storage_url: str | None = Field(
        default=None, description="Object storage: a folder, or s3://bucket/prefix. Default: `objects` in data_dir."
    )
    storage_public_url: str | None = Field(
        default=None,
        description="Where clients reach the S3 endpoint, as https://s3.example.org: images are answered 307 there, "
        "with a presigned URL. Default: the gateway streams them.",
    )
    max_wait_s: float = Field(default=120, gt=0, le=DAY_S, description="Longest `Prefer: wait`, in seconds.")
    compat_wait_s: float = Field(
        default=600,
        gt=0,
        le=DAY_S,
        description="Longest that a call of the OpenAI or AUTOMATIC1111 API waits for its job, in seconds; then the "
        "job is canceled.",
    )
    queue_limit: int = Field(default=1000, ge=1, description="Jobs that may wait in one lane of one model.")
    event_streams: int | None = Field(
        default=None,
        ge=1,
        description="Event streams that one gateway has open; one more is answered 429. Default: a fourth of the file "
        "descriptors that it may open, at most 2000.",
    )
    max_pixels: int = Field(default=MAX_PIXELS, ge=4096, description="Pixels of one upload and of one answer.")
    max_body_mb: int = Field(default=32, ge=1, description="Largest request body, in MiB.")
    retention_s: int = Field(
        default=DAY_S,
        ge=1,
        le=TEN_YEARS_S,
        description="How long finished jobs, images and uploads stay, in seconds; at most ten years.",
    )
    gone_s: int = Field(
        default=30 * DAY_S,
        ge=1,
        le=TEN_YEARS_S,
        description="How long an expired id is answered 410, in seconds; at most ten years.",
    )
    max_rows: int = Field(default=16, ge=1, description="Most rows (network evaluations) in one UNet call.")
    strict_rows: int | None = Field(
        default=None,
        ge=2,
        description="Rows of a call that carries a strict slot; "
        f"default {STRICT_ROWS_CPU} on CPU, {STRICT_ROWS_GPU} on GPU.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the networks: float32, bfloat16, float16 or auto, which is bfloat16 on CUDA (float16 "
        "below compute capability 8.0) and on CPUs that multiply it (AVX512-BF16, AMX), else float32.",
    )
    models_mb: int = Field(
        default=0,
        ge=0,
        description="Memory of the models that a worker holds at a time, in MiB; others that it offers are loaded when "
        "a job asks for them, and the least recently used leave. 0: half of the memory that is free at its start, and "
        "no less than the default models take.",
    )
    lora_mb: int = Field(
        default=1024,
        ge=0,
        description="Memory of LoRAs and ControlNets that a worker keeps for later jobs, in MiB; running jobs keep "
        "theirs beside it.",
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads of a worker; default: all cores.")
    drain_s: float = Field(default=30, ge=0, description="Grace period in which a stopping worker finishes jobs.")
    hang_s: float | None = Field(
        default=None,
        gt=0,
        description="A worker that is in one UNet call or one decoding for longer counts as hung and ends itself, so "
        "that it is started again; default 600 s on GPU, 3600 s on CPU.",
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of its own for /metrics of a gateway or worker."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address that metrics ports listen on.")
    worker_metrics_port: int = Field(
        default=9101,
        ge=1,
        le=65535,
        description="Metrics port of the first worker that `latentd up` starts; +1 each. One that is taken is "
        "replaced by any free one.",
    )
    min_free_mb: int = Field(
        default=512,
        ge=0,
        description="New jobs are refused (507) below this much free space where images and uploads are stored, in "
        "MiB; not on S3, which doesn't tell.",
    )
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Where webhooks may go, comma-separated: hosts (hooks.example.org, *.example.org), `http://` "
        "before one that may be plain, `:8443` behind one for another port than 443 and 80 (`:*`: any), networks "
        "(10.0.0.0/8) whose private addresses may be used. Empty: nowhere.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Signs webhooks (Standard Webhooks): whsec_ and at least 24 bytes as base64."
    )
    server: str | None = Field(
        default=None,
        description="Service that `latentd generate` and the other commands that draw send their work to, as "
        "https://draw.example.org. Default: they draw themselves.",
    )
    api_key: SecretStr | None = Field(default=None, description="API key that they send to it.")
    log_prompts: bool = Field(default=False, description="Let the gateway's log name prompts.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )

    @field_validator("allowed_hosts", "webhook_allow", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def split_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """One that no `Host` header can match is a mistake that would only be found by a 403."""
        bound = "names or addresses without scheme, port, path and wildcard"
        return tuple(_each(value, host_name, bound))

    @field_validator("cors_origins")
    @classmethod
    def check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bound = "origins as https://app.example.org, without path and wildcard"
        return tuple(map(str, _each(value, parse_origin, bound)))

    @field_validator("trusted_proxies")
    @classmethod
    def check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, _each(value, parse_network, "addresses or networks as 10.0.0.0/8")))

    @field_validator("webhook_allow")
    @classmethod
    def check_webhooks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bound = "hosts, *.domains or networks, each with http:// before it or :port (:*) behind it where it has them"
        return tuple(map(str, _each(value, parse_webhook_entry, bound)))

    @field_validator("public_url")
    @classmethod
    def check_public_url(cls, value: str | None) -> str | None:
        parsed = parse_public_url(value) if value else None
        if value and parsed is None:
            raise ValueError("must be an origin with or without a path, as https://example.org/draw")
        return None if parsed is None else f"{parsed[0]}{parsed[1]}"

    @field_validator("storage_public_url")
    @classmethod
    def check_endpoints(cls, value: str | None) -> str | None:
        """The object storage's client puts one variable before what it is given."""
        if value and os.environ.get("AWS_ENDPOINT_URL_S3"):
            raise ValueError(
                "goes with AWS_ENDPOINT_URL for the service's own way to S3, not with AWS_ENDPOINT_URL_S3, which would "
                "take the place of both"
            )
        return value

    @field_validator("server")
    @classmethod
    def check_server(cls, value: str | None) -> str | None:
        """An empty one is none."""
        if value and parse_public_url(value) is None:
            raise ValueError("must be http:// or https://, a host, and a port and a path where it has them")
        return value or None

    @field_validator("log_level", "dtype", mode="before")
    @classmethod
    def ignore_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def check_redis_url(cls, value: str | None) -> str | None:
        """An empty one is none. What redis-py says of a wrong one may quote its password, and isn't repeated."""
        try:
            if value:
                ConnectionPool.from_url(value).make_connection()  # reads every option; doesn't connect
        except (ValueError, TypeError, RedisError):
            bound = "redis://[user:password@]host[:port][/number], rediss:// or unix:///path, with redis-py's options"
            raise ValueError(f"must be {bound}") from None
        return value or None

    def strict_rows_on(self, device: str) -> int:
        """LATENTD_STRICT_ROWS, or its default on a device of this type or kind: `cpu` and anything else."""
        return self.strict_rows or (STRICT_ROWS_CPU if device == "cpu" else STRICT_ROWS_GPU)

    @property
    def public_origin(self) -> Origin | None:
        """The origin of LATENTD_PUBLIC_URL."""
        parsed = parse_public_url(self.public_url or "")
        return None if parsed is None else parsed[0]

    @property
    def public_path(self) -> str:
        """The path of LATENTD_PUBLIC_URL: empty, or with a slash before it and none behind."""
        parsed = parse_public_url(self.public_url or "")
        return "" if parsed is None else parsed[1]

    @property
    def storage(self) -> str:
        """The object storage's URL or folder, resolved."""
        return self.storage_url or str(self.data_dir.resolve() / "objects")

    @property
    def redis_socket(self) -> Path:
        """The embedded Redis; in the temporary folder where the data directory has too long a path."""
        socket = self.data_dir.resolve() / "redis" / "redis.sock"
        if len(str(socket)) <= SOCKET_PATH_MAX:
            return socket
        digest = hashlib.sha256(str(socket).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"latentd-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def redis(self) -> str:
        """The Redis URL; without REDIS_URL the socket of the one that `latentd up` runs."""
        return self.redis_url or f"unix://{quote(str(self.redis_socket))}"


def _each(values: Iterable[str], parse: Callable[[str], T | None], bound: str) -> Iterator[T]:
    """Yield the values as parsed. Raises ValueError for one that can't be."""
    for value in values:
        parsed = parse(value)
        if parsed is None:
            raise ValueError(f"must be {bound}; {value!r} is none")
        yield parsed


def read_settings(**options: object) -> Settings:
    """Settings of the environment, with options of the command line on top.

    Raises:
        ConfigurationError: naming each wrong variable or option, its value and its bound; or `.env` can't be read.
    """
    try:
        return Settings(**options)  # type: ignore[arg-type]  # it checks them
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        field, value = str(wrong[0]["loc"][0]), _shown(wrong[0]["input"])
        detail = "; ".join(_told(each, options) for each in wrong)
        raise ConfigurationError(detail, field=field, value=value, bound=wrong[0]["msg"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f".env: {error}", field=".env", bound="a text file in UTF-8") from error


def check_models_dir(settings: Settings) -> None:
    """Check that the folder of checkpoints is there, if only empty.

    Raises:
        ConfigurationError: it isn't.
    """
    if not settings.models_dir.is_dir():
        detail = f"LATENTD_MODELS_DIR={settings.models_dir}: there is no such folder"
        value = str(settings.models_dir)
        raise ConfigurationError(detail, field="LATENTD_MODELS_DIR", value=value, bound="a folder of checkpoints")


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return field.upper() if field.lower() == "redis_url" else f"LATENTD_{field.upper()}"


def _told(wrong: Any, options: Mapping[str, object]) -> str:
    field, bound = str(wrong["loc"][0]), wrong["msg"].removeprefix("Value error, ")
    value = _shown(wrong["input"])
    place = f"--{field.replace('_', '-')} {value}" if field in options else f"{variable(field)}={value}"
    return f"{place}: {bound[0].lower()}{bound[1:]}"


def _shown(value: object) -> str:
    return repr(without_password(value)) if isinstance(value, str) else str(value)
