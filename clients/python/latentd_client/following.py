"""A job's event stream, read line by line and taken up again where it broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from latentd_client.calls import Call
from latentd_client.errors import Unreachable
from latentd_client.records import Event

SILENCE_S = 60.0  # the service sends a comment every few seconds
HELD_S = 1.0


class Following:
    """Where one reader of a job's events has got to."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._fields: dict[str, str] = {}
        self._last_id = ""
        self._began = 0.0
        self._told = False
        self.ended = False

    @property
    def call(self) -> Call:
        """What asks for the events that are still to come."""
        headers: Mapping[str, str] = {"Last-Event-ID": self._last_id} if self._last_id else {}
        return Call("GET", f"/v1/jobs/{self._job_id}/events", headers=headers)

    def begin(self, status: int) -> None:
        """Forget half an event of the connection before; 204 says that none follows."""
        self._fields = {}
        self._began = time.monotonic()
        self._told = False
        self.ended = status == 204

    @property
    def held(self) -> bool:
        """Whether somebody was there: a line came, or the stream stayed open; not where it is empty at once, again."""
        return self._told or time.monotonic() - self._began >= HELD_S

    def read(self, line: str) -> Event | None:
        """Take one line; return the event that it ends.

        Raises:
            Unreachable: its data is no JSON object, so that what answers is no latentd.
        """
        self._told = True
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "event" not in fields:
            return None
        self._last_id = fields.get("id", self._last_id)
        event = Event(self._last_id, fields["event"], self._data(fields))
        self.ended = event.last
        return event

    def _data(self, fields: Mapping[str, str]) -> dict[str, Any]:
        text = fields.get("data") or "{}"
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if isinstance(data, dict):
            return data
        raise Unreachable(f"the event {fields['event']!r} of job {self._job_id} has no JSON object: {text[:80]!r}")
