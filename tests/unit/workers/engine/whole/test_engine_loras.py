"""LoRAs in the engine: one that is of no use fails its jobs alone. What holds of all add-ons: test_engine_add_ons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.errors import CheckpointError
from models.add_ons.loras.library import Adapters, Applied, LoraLibrary
from models.add_ons.shelf import Kept
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import finished, make_engine, play
from tests.loras import engine_of, job_named, small_sd, write_loras
from workers.engine.messages import Aborted, Prepared
from workers.library.catalogue import find_loras


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


class SlowDisk(LoraLibrary):
    """LoRAs each of whose readings takes a minute of its own clock."""

    now = 0.0

    def adapters(self, model: LatentDiffusion, applied: Sequence[Applied]) -> Adapters | None:
        self.now += 60.0
        return super().adapters(model, applied)


def test_reading_a_lora_is_no_part_of_encoding(tmp_path: Path) -> None:
    """It would stand in the estimates of all later jobs, and be paid by this one's key."""
    write_loras(tmp_path)
    job = job_named(tmp_path, "style", "fast")
    disk = SlowDisk(find_loras(tmp_path), Kept(1 << 30))
    outcomes = play(make_engine({"pipeline": small_sd()}, loras=disk, clock=lambda: disk.now), [job])
    assert [outcome.seconds for outcome in outcomes if isinstance(outcome, Prepared)] == [0.0]
    assert disk.now == 60.0
