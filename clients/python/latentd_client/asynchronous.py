"""The client for asyncio; method for method that of `synchronous`."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import httpx
from PIL import Image as Pillow

from latentd_client.calls import Call, Patience, check_type, connection, document, gone_is_well, read
from latentd_client.following import SILENCE_S, Following
from latentd_client.records import Event, Image, Job, Page
from latentd_client.synchronous import ended
from latentd_client.tasks import DryRun, Tasks, task_call


class AsyncClient(Tasks[Awaitable[Job]]):
    """One service and one key: `server` and `api_key` default to LATENTD_SERVER and LATENTD_API_KEY.

    A call that gets no answer, or "later", is tried again for `patience_s`; each answer may take `timeout_s`. Methods
    raise `Refused` for a problem, `Unreachable` for none.
    """

    def __init__(
        self,
        server: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 60.0,
        refused_s: float | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**connection(server, api_key, timeout_s))
        self._patience_s = patience_s
        self._refused_s = patience_s if refused_s is None else min(refused_s, patience_s)

    def _patience(self) -> Patience:
        return Patience(self._patience_s, self._refused_s)

    async def submit(self, kind: str, **fields: Any) -> Job:
        return read(await self._send(await asyncio.to_thread(task_call, kind, fields)), Job.of)

    async def dry_run(self, kind: str, **fields: Any) -> DryRun:
        """Return the resolved request, its tokens, and the predicted wait and GPU-seconds; no job is made."""
        return await self._mapping(await asyncio.to_thread(task_call, kind, fields, dry_run=True))

    async def job(self, id: str) -> Job:
        """Return a job as it is now."""
        return read(await self._send(Call("GET", f"/v1/jobs/{id}")), Job.of)

    async def jobs(self, **filters: str | int) -> AsyncIterator[Job]:
        """Yield the key's jobs, newest first; `filters` are those of GET /v1/jobs."""
        cursor: str | None = ""
        while cursor is not None:
            call = Call("GET", "/v1/jobs", params={**filters, **({"cursor": cursor} if cursor else {})})
            page = read(await self._send(call), Page.of)
            for job in page.items:
                yield job
            cursor = page.next_cursor

    async def models(self) -> list[Mapping[str, Any]]:
        """Return the cards of the installed checkpoints."""
        return read(await self._send(Call("GET", "/v1/models")), lambda answer: list(answer["items"]))

    async def events(self, job: Job) -> AsyncIterator[Event]:
        """Yield a job's events from its first on, as they happen, to the one that ends it; reconnects where need be."""
        following = Following(job.id)
        patience = self._patience()
        while not following.ended:
            try:
                async for event in self._followed(following, patience):
                    yield event
            except httpx.ReadTimeout:  # a proxy may hold the stream back until it is whole: the job itself tells
                await self.job(job.id)
                patience.renew()
            except httpx.RequestError as error:
                await asyncio.sleep(patience.after_failure(error))

    async def _followed(self, following: Following, patience: Patience) -> AsyncIterator[Event]:
        call = following.call
        async with self._http.stream(call.method, call.path, headers=call.headers, timeout=SILENCE_S) as answer:
            if not answer.is_success:
                await answer.aread()
                await asyncio.sleep(patience.after(answer) or 0.0)
                return
            following.begin(answer.status_code)
            if not following.ended:
                check_type(answer, "text/event-stream")
            try:
                async for line in answer.aiter_lines():
                    if (event := following.read(line)) is not None:
                        yield event
                    if following.ended:
                        return
            finally:
                if following.held:
                    patience.renew()
        if not following.ended:
            raise httpx.RemoteProtocolError("the event stream ended before its job")

    async def wait(self, job: Job, on_event: Callable[[Event], None] | None = None) -> Job:
        """Return the job once it has succeeded.

        Raises:
            JobFailed, JobCanceled: it ended otherwise.
        """
        async for event in self.events(job):
            if on_event is not None:
                on_event(event)
        return ended(await self.job(job.id))

    async def images(self, job: Job) -> list[Pillow.Image]:
        """Wait for a job and return its pictures.

        Raises:
            JobFailed, JobCanceled: there are none.
        """
        done = job if job.status == "succeeded" else await self.wait(job)
        return [Pillow.open(io.BytesIO(await self.image_file(image))) for image in done.images]

    async def image_file(self, image: Image) -> bytes:
        """Return a picture's file, as it is stored."""
        answer = await self._send(Call("GET", f"/v1/images/{image.id}"))
        check_type(answer, "image/")
        return answer.content

    async def cancel(self, job: Job) -> Job:
        """Cancel a job: at once where it waits, at its next step where it runs; one that ended stays as it is."""
        return read(await self._send(Call("DELETE", f"/v1/jobs/{job.id}")), Job.of)

    async def purge(self, job: Job) -> None:
        """Remove an ended job for good: images, uploads and record; one that is gone stays so."""
        with gone_is_well():
            await self._send(Call("DELETE", f"/v1/jobs/{job.id}", params={"purge": "true"}))

    async def _mapping(self, call: Call) -> Mapping[str, Any]:
        return document(await self._send(call))

    async def _send(self, call: Call) -> httpx.Response:
        patience = self._patience()
        while True:
            try:
                answer = await self._http.request(
                    call.method,
                    call.path,
                    json=call.json,
                    params=dict(call.params),
                    headers=call.headers,
                    follow_redirects=call.method == "GET",  # others would be sent as GET, and do nothing
                )
                self._refused_s = self._patience_s
                pause = patience.after(answer)
            except httpx.RequestError as error:
                pause = patience.after_failure(error)
            if pause is None:
                return answer
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
