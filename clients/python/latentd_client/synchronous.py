"""The client for programs that wait."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx
from PIL import Image as Pillow

from latentd_client.calls import Call, Patience, check_type, connection, document, gone_is_well, read
from latentd_client.errors import JobCanceled, JobFailed
from latentd_client.following import SILENCE_S, Following
from latentd_client.records import Event, Image, Job, Page
from latentd_client.tasks import DryRun, Tasks, task_call


class Client(Tasks[Job]):
    """One service and one key: `server` and `api_key` default to LATENTD_SERVER and LATENTD_API_KEY.

    A call that gets no answer, or "later", is tried again for `patience_s`, or for `refused_s` where nobody accepts
    connections and nobody has answered before; each answer may take `timeout_s`. Methods raise `Refused` for a problem,
    `Unreachable` for none. Threads may share a client.
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
        self._http = httpx.Client(**connection(server, api_key, timeout_s))
        self._patience_s = patience_s
        self._refused_s = patience_s if refused_s is None else min(refused_s, patience_s)

    def _patience(self) -> Patience:
        return Patience(self._patience_s, self._refused_s)

    def submit(self, kind: str, **fields: Any) -> Job:
        return read(self._send(task_call(kind, fields)), Job.of)

    def dry_run(self, kind: str, **fields: Any) -> DryRun:
        """Return the resolved request, its tokens, and the predicted wait and GPU-seconds; no job is made."""
        return self._mapping(task_call(kind, fields, dry_run=True))

    def job(self, id: str) -> Job:
        """Return a job as it is now."""
        return read(self._send(Call("GET", f"/v1/jobs/{id}")), Job.of)

    def jobs(self, **filters: str | int) -> Iterator[Job]:
        """Yield the key's jobs, newest first; `filters` are those of GET /v1/jobs."""
        cursor: str | None = ""
        while cursor is not None:
            call = Call("GET", "/v1/jobs", params={**filters, **({"cursor": cursor} if cursor else {})})
            page = read(self._send(call), Page.of)
            yield from page.items
            cursor = page.next_cursor

    def models(self) -> list[Mapping[str, Any]]:
        """Return the cards of the installed checkpoints."""
        return read(self._send(Call("GET", "/v1/models")), lambda answer: list(answer["items"]))

    def events(self, job: Job) -> Iterator[Event]:
        """Yield a job's events from its first on, as they happen, to the one that ends it; reconnects where need be."""
        following = Following(job.id)
        patience = self._patience()
        while not following.ended:
            try:
                yield from self._followed(following, patience)
            except httpx.ReadTimeout:  # a proxy may hold the stream back until it is whole: the job itself tells
                self.job(job.id)
                patience.renew()
            except httpx.RequestError as error:
                time.sleep(patience.after_failure(error))

    def _followed(self, following: Following, patience: Patience) -> Iterator[Event]:
        call = following.call
        with self._http.stream(call.method, call.path, headers=call.headers, timeout=SILENCE_S) as answer:
            if not answer.is_success:
                answer.read()
                time.sleep(patience.after(answer) or 0.0)
                return
            following.begin(answer.status_code)
            if not following.ended:
                check_type(answer, "text/event-stream")
            try:
                for line in answer.iter_lines():
                    if (event := following.read(line)) is not None:
                        yield event
                    if following.ended:
                        return
            finally:
                if following.held:
                    patience.renew()
        if not following.ended:
            raise httpx.RemoteProtocolError("the event stream ended before its job")

    def wait(self, job: Job, on_event: Callable[[Event], None] | None = None) -> Job:
        """Return the job once it has succeeded.

        Raises:
            JobFailed, JobCanceled: it ended otherwise.
        """
        for event in self.events(job):
            if on_event is not None:
                on_event(event)
        return ended(self.job(job.id))

    def images(self, job: Job) -> list[Pillow.Image]:
        """Wait for a job and return its pictures.

        Raises:
            JobFailed, JobCanceled: there are none.
        """
        done = job if job.status == "succeeded" else self.wait(job)
        return [Pillow.open(io.BytesIO(self.image_file(image))) for image in done.images]

    def image_file(self, image: Image) -> bytes:
        """Return a picture's file, as it is stored."""
        answer = self._send(Call("GET", f"/v1/images/{image.id}"))
        check_type(answer, "image/")
        return answer.content

    def cancel(self, job: Job) -> Job:
        """Cancel a job: at once where it waits, at its next step where it runs; one that ended stays as it is."""
        return read(self._send(Call("DELETE", f"/v1/jobs/{job.id}")), Job.of)

    def purge(self, job: Job) -> None:
        """Remove an ended job for good: images, uploads and record; one that is gone stays so."""
        with gone_is_well():
            self._send(Call("DELETE", f"/v1/jobs/{job.id}", params={"purge": "true"}))

    def _mapping(self, call: Call) -> Mapping[str, Any]:
        return document(self._send(call))

    def _send(self, call: Call) -> httpx.Response:
        patience = self._patience()
        while True:
            try:
                answer = self._http.request(
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
            time.sleep(pause)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def ended(job: Job) -> Job:
    """Return a job that succeeded.

    Raises:
        JobFailed, JobCanceled: it didn't.
    """
    if job.status == "succeeded":
        return job
    raise JobCanceled(job) if job.status == "canceled" else JobFailed(job)
