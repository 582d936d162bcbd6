"""Two gateways behind nginx and two workers, each restarted in turn under load: no client notices."""

from __future__ import annotations

from pathlib import Path

from tests.soak.rolling import SHORT, Rolling


def test_nothing_fails_while_everything_is_restarted(tmp_path: Path) -> None:
    told: list[str] = []
    complaints = Rolling(SHORT, tmp_path, told.append).run()
    assert not complaints, "\n".join([*complaints, *told])
