"""A run that was killed goes on as if it hadn't been; processes that share a batch compute what one would."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from models.training.configs.base import write_config
from models.training.configs.diffusion import UpscalerRun
from models.training.diffusion.run import run_diffusion
from models.training.first_stage.features import FILE
from models.training.first_stage.run import run_autoencoder
from models.training.loop.alone import held
from models.training.loop.processes import Processes
from models.training.loop.state import FOLDER
from models.training.loop.trainer import Progress, begun
from tests.training import SIZE, autoencoder_run, ldm_run, losses, train, upscaler_run, write_balls

ADVERSARIAL = {"perceptual": 0.0, "adversarial": 0.1, "adversarial_from": 0.3}
VQ: dict[str, Any] = {
    "autoencoder": {"kind": "vq", "channels": (8, 8, 16), "z_channels": 3, "norm_groups": 1, "codebook": 16},
    "codebook": {"continuous": 0.5, "then": "all", "restart_every": 2, "noise": 0.1, "vectors": 500, "rounds": 2},
    "losses": ADVERSARIAL,
    "latent_noise": 0.02,
    "crops": (32,),
}
TEXT = {"kind": "text", "width": 16, "layers": 1, "heads": 2, "window": 8, "trained": True}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a first stage of a few steps, adversarial and quantised, in one piece."""
    folder = tmp_path_factory.mktemp("resume")
    write_balls(folder / "data")
    train(autoencoder_run(folder, **VQ))
    return folder


def test_a_quantised_adversarial_first_stage_goes_on_where_it_stopped(prepared: Path) -> None:
    """Stopped before the codebook is filled, and again after it and the discriminator began."""
    pieces = autoencoder_run(prepared, **VQ, out=prepared / "pieces")
    train(pieces, until=5)
    train(pieces, until=9)
    assert train(pieces) == pytest.approx(losses(prepared / "first"), abs=1e-6)


def test_latent_diffusion_goes_on_where_it_stopped(prepared: Path) -> None:
    whole = ldm_run(prepared, condition=TEXT, concat="mask-latent", accumulate=2)
    pieces = ldm_run(prepared, condition=TEXT, concat="mask-latent", accumulate=2, out=prepared / "ldm-pieces")
    train(pieces, until=random.SystemRandom().randrange(1, 11))
    assert train(pieces) == pytest.approx(train(whole), abs=1e-6)


def test_a_run_stops_while_it_encodes_and_goes_on(prepared: Path) -> None:
    whole = ldm_run(prepared, condition=TEXT, out=prepared / "unbroken")
    pieces = ldm_run(
        prepared, condition=TEXT, out=prepared / "encoding", cache={"folder": prepared / "few", "chunk": 5}
    )
    assert not run_diffusion(pieces, "cpu", report=lambda _: None, stop=lambda: True)
    assert [json.loads(file.read_text("utf-8"))["done"] for file in (prepared / "few").rglob("progress.json")] == [5]
    assert not (pieces.out / FOLDER).exists()
    assert train(pieces) == pytest.approx(train(whole), abs=1e-6)


def test_a_first_stage_stops_while_its_features_are_trained(prepared: Path) -> None:
    """Nothing of the classifier is kept; the next piece trains it whole."""
    perceptual = {"losses": {"perceptual": 0.1}, "features": {"steps": 5, "batch": 4, "width": 8}, "steps": 1}
    run = autoencoder_run(prepared, **perceptual, out=prepared / "perceptual")
    seen: list[tuple[str, int]] = []
    assert not run_autoencoder(run, "cpu", report=lambda p: seen.append((p.what, p.step)), stop=lambda: len(seen) == 2)
    assert seen == [("features", 1), ("features", 2)]
    assert not (run.out / FILE).exists()
    seen.clear()
    assert run_autoencoder(run, "cpu", report=lambda p: seen.append((p.what, p.step)), stop=lambda: False)
    assert seen == [*(("features", k) for k in range(1, 6)), ("steps", 1)]


def test_a_run_killed_at_any_moment_loses_nothing_but_time(prepared: Path) -> None:
    """By SIGKILL after a random step: what it wrote beyond its last state is written again, the same."""
    run = upscaler_run(prepared, out=prepared / "killed", crops=(4, 8))
    whole = train(upscaler_run(prepared, crops=(4, 8)))
    process = get_context("spawn").Process(target=killed, args=(run, random.SystemRandom().randrange(1, 12)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert train(run) == pytest.approx(whole, abs=1e-6)


def killed(run: UpscalerRun, after: int) -> None:
    """Train and be killed in step `after`, once it was logged and before any state of it is saved."""

    def report(progress: Progress) -> None:
        if progress.what == "steps" and progress.step == after:
            os.kill(os.getpid(), signal.SIGKILL)

    run_diffusion(run, "cpu", report=report, stop=lambda: False)


def test_two_processes_compute_what_one_does(prepared: Path) -> None:
    """At an equal global batch, over gloo, in a recipe: both players of a first stage, the UNet with its encoder."""
    kl = {"losses": ADVERSARIAL, "steps": 8}
    first, ldm = autoencoder_run(prepared, **kl, out=prepared / "first-two"), {"condition": TEXT, "steps": 6}
    second = ldm_run(prepared, **ldm, out=prepared / "ldm-two")
    (prepared / "recipe").mkdir()
    for run, what in ((first, "autoencoder"), (second, "ldm")):
        write_config(run, prepared / "recipe" / f"{what}.yaml")
    done = torchrun("recipe", str(prepared / "recipe"))
    assert done.returncode == 0, done.stderr
    assert losses(first.out) == pytest.approx(
        train(autoencoder_run(prepared, **kl, out=prepared / "first-one")), abs=1e-4
    )
    assert losses(second.out) == pytest.approx(train(ldm_run(prepared, **ldm, out=prepared / "ldm-one")), abs=1e-4)


def test_two_processes_learn_the_codes_that_one_does_in_as_many_parts(prepared: Path) -> None:
    """Of two codes that are equally near rounding decides, so gradients must be the same sums to the last bit."""
    vq = VQ | {"codebook": VQ["codebook"] | {"then": "decoder"}, "losses": {"perceptual": 0.0, "adversarial": 0.0}}
    two = autoencoder_run(prepared, **vq, out=prepared / "vq-two")
    write_config(two, prepared / "vq-two.yaml")
    done = torchrun("autoencoder", "--config", str(prepared / "vq-two.yaml"))
    assert done.returncode == 0, done.stderr
    assert losses(two.out) == pytest.approx(
        train(autoencoder_run(prepared, **vq, out=prepared / "vq-one", accumulate=2)), abs=1e-6
    )


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `latentd train` in two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    command = [*start, "latentd", "train", *arguments, "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=250, check=False)


def test_what_changes_no_loss_may_change(prepared: Path) -> None:
    """Grids, and what the product is called and written as."""
    run = ldm_run(prepared, condition=TEXT, out=prepared / "renamed", steps=4, save_every=2)
    train(run, until=2)
    index = run.out / FOLDER / "state.json"
    told = json.loads(index.read_text("utf-8"))
    whole = json.loads(told["config"]) | {"sample_steps": 9, "prompts": ["x"], "card": {"licence": "before"}}
    whole |= {"full_mask": 0.9}  # which does nothing without a mask, and was accepted
    index.write_text(json.dumps(told | {"config": json.dumps(whole)}), "utf-8")  # as before these were left out
    (run.out / "checkpoint").rename(run.out / ".checkpoint.old")  # as a kill between two renames leaves it
    train(run, until=2)
    assert (run.out / "checkpoint").is_dir()
    card = {"licence": "MIT", "description": "Balls."}
    changed = {"sample_steps": 2, "guidance_scale": 3.0, "prompts": ["red ball"], "save_dtype": "float16", "card": card}
    assert len(train(type(run).model_validate(run.model_dump() | changed))) == 4
    written = json.loads((run.out / "checkpoint" / "card.json").read_text("utf-8"))
    assert (written["licence"], written["description"]) == ("MIT", "Balls.")


def test_a_state_of_another_configuration_is_refused(prepared: Path) -> None:
    """Before anything is encoded for it, and what it was stays to be read."""
    told = prepared / "first" / "config.yaml"
    before = told.read_text("utf-8")
    run = autoencoder_run(prepared, **VQ | {"latent_noise": 0.5, "seed": 7})
    with pytest.raises(ConfigurationError, match=r"configuration \(seed was 0, is 7, latent_noise was .*, is 0\.5\)"):
        train(run)
    assert told.read_text("utf-8") == before


def test_a_folder_is_one_runs_alone_until_its_end(prepared: Path) -> None:
    """Two would write the same state and log; what the second says comes before it reads or writes any of them."""
    run = autoencoder_run(prepared, out=prepared / "shared", steps=2)
    refused: list[ConfigurationError] = []

    def start_another(_: Progress) -> None:
        with pytest.raises(ConfigurationError, match=r"out is .*shared; another process works there") as error:
            train(run.model_copy(update={"seed": 1}))
        refused.append(error.value)

    assert run_autoencoder(run, "cpu", report=start_another, stop=lambda: False)
    assert [error.field for error in refused] == ["out"] * 2
    assert len(train(run)) == 2


def test_a_helper_that_outlives_its_killed_run_doesnt_hold_the_folder(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=killed_beside_a_helper, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with held(tmp_path):
        pass


def killed_beside_a_helper(out: Path) -> None:
    with held(out):
        get_context("fork").Process(target=time.sleep, args=(5,)).start()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_batch_that_doesnt_divide_is_refused_first_in_the_users_numbers(tmp_path: Path) -> None:
    run = autoencoder_run(tmp_path, batch=16, accumulate=4)
    told = "batch is 16; accumulate is 4 and there are 8 processes, so that 32 must divide it"
    with pytest.raises(ConfigurationError, match=told) as refused, begun(run, Processes(0, 8)):
        pass
    assert (refused.value.field, refused.value.value, refused.value.bound) == ("batch", 16, 32)
    assert not run.out.exists()


def test_a_misspelt_column_of_weights_is_refused_before_anything_is_computed(prepared: Path) -> None:
    misspelt = {"folder": prepared / "data", "size": SIZE, "weights": {0.5: "wieght"}}
    first = autoencoder_run(
        prepared, data=misspelt, losses={"perceptual": 0.1}, features={"steps": 1}, out=prepared / "misspelt"
    )
    second = ldm_run(prepared, data=misspelt, out=prepared / "misspelt", cache={"folder": prepared / "unmade"})
    for run in (first, second):
        with pytest.raises(ConfigurationError, match="12 of 12 pictures have no wieght"):
            train(run)
    assert not (prepared / "misspelt" / FILE).exists()
    assert not (prepared / "unmade").exists()


def test_no_state_of_a_run_whose_loss_is_no_number_is_kept(prepared: Path) -> None:
    run = ldm_run(prepared, steps=4, save_every=2, log_every=3, out=prepared / "lost")
    optimizer = run.optimizer.model_copy(update={"learning_rate": 1e30, "warmup": 0})
    with pytest.raises(ConfigurationError, match="step 2: the loss is no number"):
        train(run.model_copy(update={"optimizer": optimizer}))
    assert not (run.out / FOLDER).exists()


def test_a_state_of_other_pictures_or_another_first_stage_is_refused(tmp_path: Path) -> None:
    """Whatever their paths: a UNet that learnt other latents would go on as if nothing had happened."""
    write_balls(tmp_path / "data", count=8)
    train(autoencoder_run(tmp_path, steps=1))
    train(ldm_run(tmp_path, steps=2), until=1)
    shutil.rmtree(tmp_path / "first")
    train(autoencoder_run(tmp_path, steps=1, seed=1))
    with pytest.raises(ConfigurationError, match=r"another first stage;"):
        train(ldm_run(tmp_path, steps=2))
    shutil.rmtree(tmp_path / "data")
    write_balls(tmp_path / "data", count=9)
    with pytest.raises(ConfigurationError, match=r"another first stage and another set of pictures;"):
        train(ldm_run(tmp_path, steps=2))


def test_a_run_whose_last_checkpoint_could_not_be_written_is_not_done(prepared: Path) -> None:
    run = ldm_run(prepared, steps=4, save_every=2, out=prepared / "full")
    in_the_way = run.out / ".checkpoint.old"

    def told(moment: Progress) -> None:
        if moment.what == "steps" and moment.step == 3:
            in_the_way.write_bytes(b"")

    with pytest.raises(OSError, match=in_the_way.name):
        run_diffusion(run, "cpu", report=told, stop=lambda: False)
    assert json.loads((run.out / FOLDER / "state.json").read_text("utf-8"))["step"] == 2
    in_the_way.unlink()
    before = (run.out / "checkpoint" / "unet.safetensors").read_bytes()
    assert run_diffusion(run, "cpu", report=lambda _: None, stop=lambda: False)
    assert (run.out / "checkpoint" / "unet.safetensors").read_bytes() != before


def test_a_state_is_whole_or_not_there(prepared: Path) -> None:
    state = json.loads((prepared / "first" / FOLDER / "state.json").read_text("utf-8"))
    assert state["step"] == 12
    assert not (prepared / "first" / f".{FOLDER}.old").exists()
