"""Object storage shared by gateway and workers: a local folder or S3, through obstore.

Objects: `images/{job}/{execution}/{k}.{format}` (written once by the worker), `uploads/{job}/{name}` (by the gateway),
`states/{job}/{execution}/{step}` (savepoints of large pictures, by the worker).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from obstore.store import LocalStore, S3Store

from latentd.errors import ConfigurationError

Store: TypeAlias = LocalStore | S3Store


def open_store(url: str) -> Store:
    """Open the store at `url`, a folder or `s3://bucket/prefix` (usual AWS variables).

    Raises:
        ConfigurationError: for any other scheme.
    """
    if url.startswith("s3://"):
        return S3Store.from_url(url)
    if "://" in url:
        raise ConfigurationError(
            f"LATENTD_STORAGE_URL={url!r} is neither a folder nor s3://bucket/prefix",
            field="LATENTD_STORAGE_URL",
            value=url,
            bound="a folder or s3://bucket/prefix",
        )
    folder = Path(url)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalStore(folder)


def image_path(job_id: str, execution: str, index: int, output_format: str) -> str:
    """Where image `index` of one execution of a job is put."""
    return f"images/{job_id}/{execution}/{index}.{output_format}"


def state_path(job_id: str, execution: str, step: int) -> str:
    """Where a savepoint goes that is too large for Redis."""
    return f"states/{job_id}/{execution}/{step}"


def upload_path(job_id: str, name: str) -> str:
    """Where an uploaded `image` or `mask` of a job is put."""
    return f"uploads/{job_id}/{name}"
