"""Object storage shared by gateway and workers: a local folder or S3, through obstore.

Objects: `images/{job}/{execution}/{k}.{format}` (written once by the worker), `uploads/{job}/{name}-{hash}` (by the
gateway), `states/{job}/{execution}/{step}` (savepoints of large pictures, by the worker), DEPLOYMENT_OBJECT,
SWEEPS_OBJECT and PROBE_OBJECT.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from core.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import RetryConfig

Store: TypeAlias = LocalStore | S3Store

# Short: a worker tries again by itself, and a client of the gateway waits.
RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
STAGED = re.compile(r"#\d+$")  # how LocalStore names files that it is writing; it lists none of them
REFUSES = re.compile(r"status code: (4(?!08|29)\d\d|501)")  # in obstore's texts: what asking again won't change
HASH_DIGITS = 16
FOLDERS = ("images", "uploads", "states")  # each with one a job, which go when the job does
DEPLOYMENT_OBJECT = "deployment"  # the id that a storage shares with its Redis
SWEEPS_OBJECT = "sweeps"  # how many of its sweeps it has seen
PROBE_OBJECT = "probe"  # empty: what creating was tried with


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

    Whatever AWS_ENDPOINT_URL says; settings refuse AWS_ENDPOINT_URL_S3 beside it, which no option of obstore overrides.

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
    return S3Store.from_url(
        url,
        endpoint=public_url.rstrip("/"),
        client_options={"allow_http": insecure},
        retry_config=RETRIES,
    )


def may_be_unmounted(storage_url: str | None, store: Store) -> bool:
    """Tell whether a storage is a folder that LATENTD_STORAGE_URL names, which may be a mount point.

    The one below the data directory may be emptied by hand.
    """
    return storage_url is not None and isinstance(store, LocalStore)


def put_image(store: Store, path: str, data: bytes, media_type: str) -> None:
    """Create an image's object; S3 keeps its type for those who fetch it there.

    Raises:
        AlreadyExistsError: there is one already.
        BaseError, OSError: the storage is away.
    """
    create(store, path, data, {"Content-Type": media_type} if isinstance(store, S3Store) else None)


def create(store: Store, path: str, data: bytes, attributes: Attributes | None = None) -> None:
    """Create an object.

    LocalStore does it by a hard link. Where a file system has none (SMB, some of FUSE) it is looked for and then put:
    no two put one path, which names an execution, or holds the id that Redis has chosen.

    Raises:
        AlreadyExistsError: there is one already.
        BaseError, OSError: the storage is away.
    """
    try:
        store.put(path, data, mode="create", attributes=attributes)
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        if not _lacks_links(store):
            raise
        if _is_there(store, path):
            raise AlreadyExistsError(path) from error
        store.put(path, data)


def _is_there(store: Store, path: str) -> bool:
    try:
        store.head(path)
    except FileNotFoundError:
        return False
    return True


def _lacks_links(store: Store) -> bool:
    """Tell whether files can be made in a folder, but no hard links to them; `tidy` removes what is left of a try."""
    if isinstance(store, S3Store) or store.prefix is None:
        return False
    name = f"{store.prefix}/{uuid.uuid4().hex}"
    probe, link = Path(f"{name}#1"), Path(f"{name}#2")
    try:
        probe.touch()
    except OSError:
        return False
    try:
        link.hardlink_to(probe)
    except OSError:
        return probe.exists()
    finally:
        probe.unlink(missing_ok=True)
        link.unlink(missing_ok=True)
    return False


def check_creates(store: Store) -> None:
    """Check that an S3 server knows puts that create (If-None-Match): where it doesn't, no image ever gets there.

    Raises:
        ConfigurationError: it refuses them and takes others.
        BaseError, OSError: the storage is away, or takes none at all.
    """
    if isinstance(store, S3Store) and _create_refused(store) is not None:
        store.put(PROBE_OBJECT, b"")
        if (error := _create_refused(store)) is not None:
            raise ConfigurationError(
                "the server of LATENTD_STORAGE_URL refuses PUT with If-None-Match: *, by which images are stored: "
                f"{told(error)}",
                field="LATENTD_STORAGE_URL",
                bound="an S3 server that knows conditional writes",
            ) from error


def _create_refused(store: Store) -> BaseError | None:
    """What a server says that refuses such a put.

    Raises:
        BaseError, OSError: nobody answered, or a server that is busy or broken.
    """
    try:
        create(store, PROBE_OBJECT, b"")
    except AlreadyExistsError:
        return None
    except BaseError as error:
        if REFUSES.search(str(error)) is None:
            raise
        return error
    return None


def told(error: Exception) -> str:
    """What the system or the server said, on one line: obstore's texts go on with dumps and whole answers."""
    text = str(error)
    first, code = text.partition("\n")[0].partition("<")[0], re.search("<Code>(.*?)</Code>", text)
    return " ".join([first.strip() or type(error).__name__, *([code[1]] if code else [])])


def free_mb(store: Store) -> int | None:
    """How many MiB are free where a local folder is; None of S3, which doesn't tell.

    Raises:
        OSError: the folder can't be looked at.
    """
    if isinstance(store, S3Store) or store.prefix is None:
        return None
    folder = Path(store.prefix)
    disk = os.statvfs(next(each for each in (folder, *folder.parents) if each.exists()))  # a put makes it anew
    return disk.f_bavail * disk.f_frsize // 2**20


def lacks_room(store: Store, size: int) -> bool:
    """Tell whether a put of that many bytes failed because a local disk, or a quota on it, is full.

    obstore's errors carry no errno, so that the same bytes are written once more, to a file without a name.
    """
    if isinstance(store, S3Store) or store.prefix is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=store.prefix, buffering=0) as probe:
            os.posix_fallocate(probe.fileno(), 0, max(size, 1))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def delete(store: Store, paths: Sequence[str]) -> None:
    """Delete objects. One that is gone already, by a sweep or another request, is as good as deleted.

    Raises:
        BaseError, OSError: the storage is away.
    """
    if isinstance(store, S3Store):
        store.delete(paths)
        return
    for path in paths:
        with suppress(FileNotFoundError):
            store.delete(path)


def tidy(store: Store, before: float) -> int:
    """Remove empty folders of before that time from a local folder, and what puts that were cut short left in it; how
    many files. Deleting folders at once would make puts beside it fail.
    """
    if isinstance(store, S3Store) or store.prefix is None:
        return 0
    found = 0
    for folder, _, names in os.walk(store.prefix, topdown=False):
        for path in (Path(folder, name) for name in names if STAGED.search(name)):
            found += _remove(path, before, Path.unlink)
        if folder != str(store.prefix):
            _remove(Path(folder), before, Path.rmdir)
    return found


def _remove(path: Path, before: float, remove: Callable[[Path], None]) -> bool:
    """Whether it was old enough and, if a folder, empty."""
    try:
        if path.stat().st_mtime <= before:
            remove(path)
            return True
    except OSError:  # it is in use again, or someone else was faster
        return False
    return False


def image_path(job_id: str, execution: str, index: int, output_format: str) -> str:
    """Where image `index` of one execution of a job is put."""
    return f"images/{job_id}/{execution}/{index}.{output_format}"


def state_path(job_id: str, execution: str, step: int) -> str:
    """Where a savepoint goes that is too large for Redis."""
    return f"states/{job_id}/{execution}/{step}"


def upload_path(job_id: str, name: str, sha256: str) -> str:
    """Where an uploaded file of a job is put; a request that another overtook overwrites nothing of it."""
    return f"uploads/{job_id}/{name}-{sha256[:HASH_DIGITS]}"
