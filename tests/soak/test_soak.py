"""The soak of `make soak`, small enough for `make test`."""

from __future__ import annotations

from pathlib import Path

from tests.soak.plan import SHORT
from tests.soak.run import soak


def test_jobs_end_once_while_workers_and_redis_are_killed(tmp_path: Path) -> None:
    complaints, text = soak(SHORT, tmp_path, lambda _line: None)
    assert complaints == [], text
