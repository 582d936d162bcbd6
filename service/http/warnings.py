"""The header that tells a job's warnings where the answer's body can't: bounded, as heads of answers are."""

from __future__ import annotations

import json
from collections.abc import Iterable

from contract.job import JobWarning
from service.http.problems import cut

HEADER = "Latentd-Warnings"
HEADER_DOCUMENT = {
    HEADER: {
        "description": "JSON list of {field, message}: what was ignored, cut or changed, as far as a header has room.",
        "schema": {"type": "string"},
    }
}
HEADER_CHARACTERS = 2800  # nginx has 4 KiB for the whole head of an answer


def warning_headers(warnings: Iterable[JobWarning]) -> dict[str, str]:
    """Make the header that tells of warnings, those that fit; none for none."""
    shown_ones: list[dict[str, str]] = []
    for warning in warnings:
        item = {"field": cut(warning.field), "message": cut(warning.message)}
        if len(json.dumps([*shown_ones, item])) > HEADER_CHARACTERS:
            break
        shown_ones.append(item)
    return {HEADER: json.dumps(shown_ones)} if shown_ones else {}
