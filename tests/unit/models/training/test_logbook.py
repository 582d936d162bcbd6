"""The log of a run: lines beyond its last state are taken out, and no kill takes the others along."""

from __future__ import annotations

from pathlib import Path

from models.training.loop.logbook import LOG, Logbook, read_log


def test_the_log_is_whole_until_the_shorter_one_is(tmp_path: Path) -> None:
    log = Logbook(tmp_path, 0)
    for step in range(5):
        log.write(step, {"loss": 1.0})
    log.close()
    with (tmp_path / LOG).open(encoding="utf-8") as before:
        Logbook(tmp_path, 3).close()
        assert len(before.readlines()) == 5  # a file beside takes its place, it isn't emptied
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
