"""LoRAs in the engine: one that is of no use fails its jobs alone. What holds of all add-ons: test_engine_add_ons."""

from __future__ import annotations

from pathlib import Path

from core.errors import CheckpointError
from tests.engines import finished, play
from tests.loras import engine_of, job_named, write_loras
from workers.engine.messages import Aborted


def test_a_lora_that_was_replaced_since_fails_its_jobs_alone(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    jobs = [job_named(tmp_path, name, "fast") for name in ("none", "style")]
    engine = engine_of(tmp_path)
    (folder / "style.safetensors").write_bytes((folder / "peft.safetensors").read_bytes())
    outcomes = play(engine, jobs)
    [aborted] = [outcome for outcome in outcomes if isinstance(outcome, Aborted)]
    assert aborted.job_id == "style"
    assert isinstance(aborted.error, CheckpointError)
    assert "'style' was replaced" in aborted.error.detail
    assert ("none", 0) in finished(outcomes)
