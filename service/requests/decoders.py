"""Processes that decode uploads, so that no file can stop the gateway or crash it; `-m` runs one.

Each reads orders from its input and answers on its output, as messages of blobs: never a pickle. It ends when its
input does, so that none outlives its gateway. Its CPU time is limited by the kernel, which kills it; another follows.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

import structlog
from pydantic import BaseModel

from contract.job import JobWarning
from core.errors import DecodersBusy, InvalidRequest, Problem
from service.requests.decoding import Encoded, Reading, Size, decode, encode

DECODERS = 2  # a picture of 16 MP takes seconds and hundreds of MiB to decode
DECODE_S = 2.0  # of CPU time for files of up to USUAL_PIXELS; the largest honest picture takes a third of it
USUAL_PIXELS = 2**24
WAIT_S = 2.0  # for a process that is free; then the client is told to come back
RETRY_AFTER_S = 2
PATIENCE_S = 30.0  # of real time, on a machine that has no CPU left

log = structlog.get_logger("service")


class Order(BaseModel):
    """What is to be decoded: the message's other blobs are the files, in this order."""

    reading: Reading
    names: tuple[str, ...]


class Answer(BaseModel):
    """What came of it: the message's other blobs are the pictures, in the order of `sizes`; or a refusal."""

    sizes: dict[str, Size] = {}
    warnings: tuple[JobWarning, ...] = ()
    problem: Problem | None = None


class DecoderDied(Exception):
    """The process ended before it had answered."""


class Decoder:
    """One process. Away from a terminal's signals: its gateway says when it ends."""

    def __init__(self) -> None:
        self._late = False
        command = [sys.executable, "-P", "-m", "service.requests.decoders"]  # not what lies in the working folder
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )

    def ask(self, files: Mapping[str, bytes], reading: Reading) -> Encoded:
        """Have files decoded.

        Raises:
            InvalidRequest: as `decode` refuses them.
            DecoderDied: the process ended.
        """
        sent, answered = self._process.stdin, self._process.stdout
        assert sent is not None
        assert answered is not None
        order = Order(reading=reading, names=tuple(files))
        try:
            write_message(sent, [order.model_dump_json().encode(), *files.values()])
            message = read_message(answered)
        except (OSError, ValueError) as error:  # a closed pipe; one that was closed here
            raise DecoderDied from error
        if message is None:
            raise DecoderDied
        return _encoded(message)

    def stop(self) -> None:
        """End it because it doesn't answer; who asked it is told that it died."""
        self._late = True
        self._process.kill()

    @property
    def late(self) -> bool:
        """Whether it was ended because its time was over."""
        return self._late or self._process.returncode == -signal.SIGPROF

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                _close(pipe)


class Decoders:
    """At most `count` processes, started when first needed."""

    def __init__(self, count: int = DECODERS) -> None:
        self._count = count
        self._slots = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoding")
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()
        self._working: set[asyncio.Task[Encoded]] = set()
        self._closed = False

    async def decode(self, files: Mapping[str, bytes], reading: Reading) -> Encoded:
        """Have files decoded by the next process that is free; one that was begun ends, whoever leaves.

        Raises:
            DecodersBusy: none is free for WAIT_S.
            InvalidRequest: as `decode` refuses them, or it takes more than DECODE_S, or breaks two decoders.
        """
        await self._free()
        work = asyncio.create_task(self._decode(files, reading))
        self._working.add(work)
        work.add_done_callback(self._ended)
        return await asyncio.shield(work)

    def _ended(self, work: asyncio.Task[Encoded]) -> None:
        """Take what came of it: asyncio would log a refusal that nobody waits for any more as an error."""
        self._working.discard(work)
        if not work.cancelled():
            work.exception()

    async def _free(self) -> None:
        """Take one of the processes; bodies that wait take memory, and their clients would rather know."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._slots.acquire()
        except TimeoutError as error:
            detail = f"all decoders of pictures were busy for {WAIT_S:g} s"
            raise DecodersBusy(detail, retry_after=RETRY_AFTER_S, value=f"{self._count} decoders") from error

    async def _decode(self, files: Mapping[str, bytes], reading: Reading) -> Encoded:
        """Have files decoded; of a process that died another's greed for memory may be the cause, but not of two."""
        try:
            first = self._idle.pop() if self._idle else Decoder()
            try:
                return await self._held(first, files, reading)
            except DecoderDied as error:
                if first.late or self._closed:
                    raise _unfit(files, reading, first.late) from error
                log.info("a decoder died; another is asked")
            second = Decoder()
            try:
                return await self._held(second, files, reading)
            except DecoderDied as error:
                raise _unfit(files, reading, second.late) from error
        finally:
            self._slots.release()

    async def _held(self, decoder: Decoder, files: Mapping[str, bytes], reading: Reading) -> Encoded:
        """Ask one process, which is kept unless it died."""
        fit = False
        self._busy.add(decoder)
        try:
            answer = await self._ask(decoder, files, reading)
            fit = True
        except InvalidRequest:
            fit = True
            raise
        finally:
            self._busy.discard(decoder)
            if fit:
                self._idle.append(decoder)
            else:
                decoder.close()
        return answer

    async def _ask(self, decoder: Decoder, files: Mapping[str, bytes], reading: Reading) -> Encoded:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, decoder.ask, files, reading)
        done, _ = await asyncio.wait([asked], timeout=PATIENCE_S)
        if not done:
            decoder.stop()
        return await asked

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for decoder in [*self._idle, *self._busy]:
            decoder.close()
        self._idle.clear()
        self._threads.shutdown()


def _unfit(files: Mapping[str, bytes], reading: Reading, late: bool) -> InvalidRequest:
    """Refuse files that a decoder died of."""
    names, size = " and ".join(files), sum(map(len, files.values()))
    log.warning("a decoder died", late=late, bytes=size)
    if late:
        seconds = f"{limit_s(reading.max_pixels):g} s"
        detail, bound = f"{names} takes more than {seconds} to decode", f"{seconds} of decoding"
    else:
        detail, bound = f"{names} can't be decoded", "a complete PNG, JPEG or WebP file"
    return InvalidRequest(detail, field=next(iter(files)), value=f"{size} bytes", bound=bound)


def _encoded(message: Sequence[bytes]) -> Encoded:
    answer = Answer.model_validate_json(message[0])
    if answer.problem is not None:
        problem = answer.problem
        raise InvalidRequest(problem.detail, field=problem.field, value=problem.value, bound=problem.bound)
    return Encoded(answer.sizes, dict(zip(answer.sizes, message[1:], strict=True)), answer.warnings)


def write_message(stream: IO[bytes], blobs: Sequence[bytes]) -> None:
    """Write how many blobs there are, then each with its length before it."""
    stream.write(struct.pack(">I", len(blobs)))
    for blob in blobs:
        stream.write(struct.pack(">Q", len(blob)))
        stream.write(blob)
    stream.flush()


def read_message(stream: IO[bytes]) -> list[bytes] | None:
    """Read what `write_message` wrote; None if the stream ends before."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    blobs = []
    for _ in range(struct.unpack(">I", head)[0]):
        length = stream.read(8)
        blob = stream.read(struct.unpack(">Q", length)[0]) if len(length) == 8 else b""
        if len(length) < 8 or len(blob) < struct.unpack(">Q", length)[0]:
            return None
        blobs.append(blob)
    return blobs


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # what was still to be written has no reader
        log.debug("a decoder's pipe was broken")


def serve() -> None:
    """Decode what is asked for until the input ends."""
    while (message := read_message(sys.stdin.buffer)) is not None:
        answer, blobs = _answer(message)
        write_message(sys.stdout.buffer, [answer.model_dump_json().encode(), *blobs])


def _answer(message: Sequence[bytes]) -> tuple[Answer, Sequence[bytes]]:
    order = Order.model_validate_json(message[0])
    try:
        with _limited(limit_s(order.reading.max_pixels)):
            decoded = decode(dict(zip(order.names, message[1:], strict=True)), order.reading)
    except InvalidRequest as error:
        return Answer(problem=error.problem()), ()
    encoded = encode(decoded)
    return Answer(sizes=dict(encoded.sizes), warnings=encoded.warnings), tuple(encoded.data.values())


def limit_s(max_pixels: int) -> float:
    """How much CPU time one request's files have."""
    return DECODE_S * max(1.0, max_pixels / USUAL_PIXELS)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Let the kernel end this process when the block has taken that much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    serve()
