"""Uploads in and images out, on threads of their own, so that the GPU loop never waits for storage."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeAlias, TypeVar

import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from PIL import Image

from contract.job import ImageInfo, image_id
from contract.uploads import Upload
from core.errors import DiskFull, JobFailed, LatentdError
from core.storage import Store, delete, image_path, lacks_room, put_image, told
from jobs.deployment import stored_id
from jobs.run import JobRun
from workers.claim_policy import STORING_THREADS
from workers.engine.kinds import read_files
from workers.engine.pictures import encode_picture, picture_text
from workers.queue.savepoints import Savepoints

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
UNREADABLE_S = 60.0  # after which an object that can't be read keeps no thread from others

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InputsLoaded:
    """The pictures that a job was uploaded with, by field, and the state that an earlier execution of it left."""

    run: JobRun
    pictures: Mapping[str, Image.Image]
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class ImageStored:
    """Image `index` is in storage, under `path`."""

    run: JobRun
    index: int
    info: ImageInfo
    path: str
    seconds: float  # of the job, waiting for a storage that was away included
    try_s: float  # encoding the file and the try that went through: what an image costs


@dataclass(frozen=True, slots=True)
class StorageRefused:
    """Storage answered that it will never do."""

    run: JobRun
    error: LatentdError


Report: TypeAlias = InputsLoaded | ImageStored | StorageRefused


class Missing(Exception):
    """There is no such object."""


class Unreadable(Exception):
    """An object can't be read, in a storage that answers: archived, of another user, on a bad sector."""


class Closed(Exception):
    """The job ended, or the worker stops, before storage answered."""


class Answers:
    """For how long a storage has answered without giving an object out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.since: float | None = None  # None: it doesn't answer

    def seconds(self) -> float:
        now = self._clock()
        self.since = now if self.since is None else self.since
        return now - self.since


class Storing:
    """Loads uploads and stores images; while storage is unavailable it tries again, up to every 5 s.

    Each try that fails is told to `away`.
    """

    def __init__(
        self,
        store: Store,
        hashes: Mapping[str, str],
        savepoints: Savepoints,
        away: Callable[[], None] = lambda: None,
        check_store: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._check_store = check_store  # raises OSError for a mount point without its mount
        self._clock = clock
        self._savepoints = savepoints
        self.hashes = hashes  # of the models, by id
        self._pool = ThreadPoolExecutor(STORING_THREADS, thread_name_prefix="storing")
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._stop = threading.Event()
        self._away = away
        self._lock = threading.Lock()
        self._loading = 0
        self._waiting: Counter[str] = Counter()  # by model, decoded images that are in memory only

    def load(self, run: JobRun) -> None:
        """Read the job's uploads and state; a `InputsLoaded` or `StorageRefused` follows."""
        self._count_loading(1)
        self._submit(run, lambda: self._load(run), "its pictures can't be read", partial(self._count_loading, -1))

    def save(self, run: JobRun, index: int, picture: Image.Image) -> None:
        """Encode and store an image; a `ImageStored` or `StorageRefused` follows."""
        self._count(run.model, 1)
        done = partial(self._count, run.model, -1)
        self._submit(run, lambda: self._save(run, index, picture), "the image can't be stored", done)

    def waiting(self, model: str) -> int:
        """Images of `model` that aren't in storage yet, of ended jobs too: their memory isn't free before."""
        with self._lock:
            return self._waiting[model]

    @property
    def loading(self) -> bool:
        """Whether uploads or states are being read."""
        with self._lock:
            return self._loading > 0

    def discard(self, paths: list[str]) -> None:
        """Delete objects that no result names; what can't be deleted now is swept later."""
        if paths:
            self._pool.submit(self._discard, paths)

    def reports(self, wait_s: float = 0.0) -> list[Report]:
        """What has been done since; if nothing, waits for the first up to `wait_s`."""
        found: list[Report] = []
        try:
            found.append(self._reports.get(timeout=wait_s) if wait_s else self._reports.get_nowait())
            while True:
                found.append(self._reports.get_nowait())
        except Empty:
            return found

    def close(self) -> None:
        """Stop trying and wait for what is under way."""
        self._stop.set()
        self._pool.shutdown()

    def _count_loading(self, change: int) -> None:
        with self._lock:
            self._loading += change

    def _count(self, model: str, change: int) -> None:
        with self._lock:
            self._waiting[model] += change

    def _submit(self, run: JobRun, work: Callable[[], Report], fault: str, done: Callable[[], None]) -> None:
        def report() -> None:
            try:
                self._reports.put(work())
            except Closed:
                log.info("storing given up", **run.names)
            except LatentdError as error:
                self._reports.put(StorageRefused(run, error))
            except Exception as error:  # a thread's exception would be lost, and the job with it
                log.exception("storing failed", **run.names)
                self._reports.put(StorageRefused(run, JobFailed(f"{fault}: {type(error).__name__}")))
            finally:
                done()

        self._pool.submit(report)

    def _load(self, run: JobRun) -> InputsLoaded:
        files = {field: self._read(run, field, upload) for field, upload in run.request.files.items()}
        return InputsLoaded(run, read_files(run.request, files), self._state(run))

    def _state(self, run: JobRun) -> bytes | None:
        try:
            return self._patiently(run, lambda: self._savepoints.read(run)) if run.resumed else None
        except Unreadable:
            return None  # the run begins anew

    def _read(self, run: JobRun, field: str, upload: Upload) -> bytes:
        try:
            return self._patiently(run, lambda: self._get(upload.path))
        except Missing as error:
            raise JobFailed(f"the uploaded {field} is no longer stored", field=field) from error
        except Unreadable as error:
            raise JobFailed(f"the storage doesn't give the uploaded {field} out", field=field) from error

    def _get(self, path: str) -> bytes:
        self._check_store()  # and once more where it fails: the mount may come and go
        return bytes(self._store.get(path).bytes())

    def _save(self, run: JobRun, index: int, picture: Image.Image) -> ImageStored:
        began, request = time.monotonic(), run.request
        text = picture_text(request, index, self.hashes[run.model])
        data = encode_picture(picture, request.output_format, text)
        encoded_s = time.monotonic() - began
        path = image_path(run.job_id, run.execution.id, index, request.output_format)
        put_s = self._patiently(run, lambda: self._put(path, data, f"image/{request.output_format}"), len(data))
        if run.closed:
            self._discard([path])
            raise Closed
        info = ImageInfo(
            id=image_id(run.job_id, index),
            url=f"/v1/images/{image_id(run.job_id, index)}",
            seed=request.seeds[index],
            width=picture.width,
            height=picture.height,
            format=request.output_format,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        return ImageStored(run, index, info, path, time.monotonic() - began, encoded_s + put_s)

    def _put(self, path: str, data: bytes, media_type: str) -> float:
        """Create the object; the seconds. One that is there was put by a try whose answer was lost: only we know it."""
        began = time.monotonic()
        self._check_store()
        try:
            put_image(self._store, path, data, media_type)
        except AlreadyExistsError:
            log.info("object was there already", path=path)
        return time.monotonic() - began

    def _patiently(self, run: JobRun, work: Callable[[], T], size: int = 0) -> T:
        """Try until storage answers; `size` is how many bytes are put.

        Raises:
            Missing: there is no such object. Puts are told so by a storage that isn't there, and go on.
            Unreadable: this one can't be read, though the storage has answered for UNREADABLE_S.
            DiskFull: there is no room for it.
            Closed: the job ended, or the worker stops.
        """
        wait, answers = FIRST_WAIT_S, Answers(self._clock)
        while not run.closed:
            try:
                return work()
            except (BaseError, OSError) as error:
                if not size:
                    self._check_read(error, answers)
                # Of a mount point without its mount nothing is said by the disk below.
                if size and not isinstance(error, ConnectionError) and lacks_room(self._store, size):
                    raise DiskFull("no space is left for the image", field="LATENTD_STORAGE_URL") from error
                self._away()
                log.warning("storage is away", **run.names, error=told(error), retry_s=wait)
            if self._stop.wait(wait):
                raise Closed
            wait = min(2 * wait, LONGEST_WAIT_S)
        raise Closed

    def _check_read(self, error: BaseError | OSError, answers: Answers) -> None:
        """Raise what ends the tries to read an object: it alone is lacking or unreadable, not the storage."""
        try:
            if isinstance(error, ConnectionError):  # Redis, which savepoints are read from
                raise error
            self._check_store()
            if isinstance(error, FileNotFoundError):
                raise Missing from error
            stored_id(self._store)
        except (BaseError, OSError):
            answers.since = None
            return
        if answers.seconds() > UNREADABLE_S:
            raise Unreadable from error

    def _discard(self, paths: list[str]) -> None:
        for path in paths:
            try:
                delete(self._store, [path])
            except (BaseError, OSError) as error:
                log.info("orphan left to the sweep", path=path, error=told(error))
