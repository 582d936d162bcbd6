"""Object storage shared by gateway and workers: a local folder or S3, through obstore.

Objects: `images/{job}/{execution}/{k}.{format}` (written once by the worker), `uploads/{job}/{name}` (by the gateway),
`states/{job}/{execution}/{step}` (savepoints of large pictures, by the worker).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from latentd.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

Store: TypeAlias = LocalStore | S3Store

# Short: a worker tries again by itself, and a client of the gateway waits.
RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


def open_store(url: str) -> Store:
    """Open the store at `url`, a folder or `s3://bucket/prefix` (usual AWS variables).

    Raises:
        ConfigurationError: for any other scheme, an S3 URL without bucket, or a folder that can't be made.
    """
    try:
        if url.startswith("s3://"):
            return S3Store.from_url(url, retry_config=RETRIES)
        if "://" not in url:
            return LocalStore(private_folder(Path(url), "LATENTD_STORAGE_URL or LATENTD_DATA_DIR"))
    except BaseError as error:  # obstore's own texts are dumps of many lines
        raise _not_a_store(url) from error
    raise _not_a_store(url)


def _not_a_store(url: str) -> ConfigurationError:
    bound = "a folder or s3://bucket/prefix"
    detail = f"LATENTD_STORAGE_URL={url!r} is neither {bound.replace(' or', ' nor')}"
    return ConfigurationError(detail, field="LATENTD_STORAGE_URL", value=url, bound=bound)


def private_folder(folder: Path, variable: str) -> Path:
    """The folder that `variable` names, made with those above it if it isn't there.

    Raises:
        ConfigurationError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        detail = f"{variable}: folder {folder} can't be made: {error.strerror}"
        raise ConfigurationError(
            detail, field=variable, value=str(folder), bound="a folder that can be made"
        ) from error
    return folder


def open_public(url: str, public_url: str) -> S3Store:
    """The store at `url` as clients reach it, at the endpoint `public_url`: it signs URLs and is never asked.

    Raises:
        ConfigurationError: `url` isn't S3, or `public_url` is no HTTP URL.
    """
    if not url.startswith("s3://") or not public_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"LATENTD_STORAGE_PUBLIC_URL={public_url!r} needs LATENTD_STORAGE_URL=s3://bucket/prefix and is an "
            "endpoint as https://s3.example.org",
            field="LATENTD_STORAGE_PUBLIC_URL",
            value=public_url,
            bound="the URL of an S3 endpoint",
        )
    insecure = public_url.startswith("http://")
    return S3Store.from_url(url, endpoint=public_url.rstrip("/"), client_options={"allow_http": insecure})


def put_image(store: Store, path: str, data: bytes, media_type: str) -> None:
    """Create an image's object; S3 keeps its type for those who fetch it there.

    Raises:
        AlreadyExistsError: there is one already.
        BaseError, OSError: the storage is away.
    """
    if isinstance(store, S3Store):
        store.put(path, data, mode="create", attributes={"Content-Type": media_type})
    else:
        store.put(path, data, mode="create")


def image_path(job_id: str, execution: str, index: int, output_format: str) -> str:
    """Where image `index` of one execution of a job is put."""
    return f"images/{job_id}/{execution}/{index}.{output_format}"


def state_path(job_id: str, execution: str, step: int) -> str:
    """Where a savepoint goes that is too large for Redis."""
    return f"states/{job_id}/{execution}/{step}"


def upload_path(job_id: str, name: str) -> str:
    """Where an uploaded `image` or `mask` of a job is put."""
    return f"uploads/{job_id}/{name}"
