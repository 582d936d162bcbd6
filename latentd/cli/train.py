"""Commands that train: both stages, the upscaler, LoRAs, a recipe from its data on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import ConfigurationError
from latentd.cli.console import plain

if TYPE_CHECKING:
    from models.training.configs.base import Strict
    from models.training.loop.trainer import Progress as Moment

app = typer.Typer(help="Train: the first stage, latent diffusion, an upscaler, a LoRA.", no_args_is_help=True)

PHASES = ("data", "autoencoder", "ldm", "upscaler")  # of a recipe, in order; each is a file of its folder
NEEDED = "pip install -e '.[train]' installs what training needs"
C = TypeVar("C", bound="Strict")

Config = Annotated[Path, typer.Option("--config", help="YAML file; every key is checked.")]
Minutes = Annotated[float, typer.Option(min=0, help="Stop after about as many minutes; the same command goes on.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; under torchrun each process has its own GPU.")]
FOREVER = float("inf")


@app.command("autoencoder")
def autoencoder(config: Config, minutes: Minutes = FOREVER, device: Device = "auto") -> None:
    """Train a first stage: KL or VQ, with L1, perceptual and patch-adversarial losses."""
    _alone("autoencoder", config, device, minutes)


@app.command("ldm")
def ldm(config: Config, minutes: Minutes = FOREVER, device: Device = "auto") -> None:
    """Train latent diffusion on text, classes, label maps or nothing, or for inpainting."""
    _alone("ldm", config, device, minutes)


@app.command("upscaler")
def upscaler(config: Config, minutes: Minutes = FOREVER, device: Device = "auto") -> None:
    """Train super-resolution by the first stage's factor."""
    _alone("upscaler", config, device, minutes)


@app.command("lora")
def lora(config: Config, minutes: Minutes = FOREVER, device: Device = "auto") -> None:
    """Train a LoRA of a text model on pictures with captions; its file is kohya's or PEFT's."""
    _alone("lora", config, device, minutes)


@app.command("data")
def data(config: Config, minutes: Minutes = FOREVER) -> None:
    """Build the emoji set as a folder of pictures with captions, from its npm packages."""
    _alone("data", config, "cpu", minutes)


@app.command("recipe")
def recipe(
    folder: Annotated[Path, typer.Argument(help="Folder of data.yaml, autoencoder.yaml, ldm.yaml, upscaler.yaml.")],
    minutes: Minutes = FOREVER,
    device: Device = "auto",
) -> None:
    """Run every phase of a recipe that isn't done, from raw data to the checkpoint."""
    files = [(phase, folder / f"{phase}.yaml") for phase in PHASES if (folder / f"{phase}.yaml").is_file()]
    if not files:
        names = ", ".join(f"{phase}.yaml" for phase in PHASES)
        raise ConfigurationError(f"{folder}: has none of {names}", field="folder", value=str(folder))
    with _stoppable(_clock(minutes)) as stop, _joined():
        for phase, file in files:
            if not _phase(phase, file, device, stop):  # once asked, a phase stops after its first step
                return


@app.command("compression-study")
def compression_study(config: Config, minutes: Minutes = FOREVER, device: Device = "auto") -> None:
    """Repeat Fig. 6 and 7 of the paper: factors 1 to 32 at equal steps and parameters, as JSON and a plot."""
    _alone("compression-study", config, device, minutes)


def _alone(phase: str, file: Path, device: str, minutes: float) -> None:
    with _stoppable(_clock(minutes)) as stop, _joined():
        _phase(phase, file, device, stop)


def _phase(phase: str, file: Path, device: str, stop: Callable[[], bool]) -> bool:
    """Run one phase in the foreground. Returns whether it is done."""
    console = plain(stderr=True)
    with progress_bar(phase) as report, computing():
        from models.training.data.loader import helpers_watched

        with helpers_watched():
            done, out = _run(phase, file, device, report, stop)
    console.print(f"{out}: {'done' if done else 'stopped; the same command goes on'}", soft_wrap=True)
    return done


@contextmanager
def computing() -> Iterator[None]:
    """Say in one line what is lacking: a package, memory of the device, a file, or a disk that takes one."""
    try:
        import torch
        from safetensors import SafetensorError

        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} isn't installed; {NEEDED}") from error
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(f"the device lacks memory: {str(error).splitlines()[0]}", field="device") from error
    except (OSError, SafetensorError) as error:
        told = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            told = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        raise ConfigurationError(told) from error


def _run(
    phase: str, file: Path, device: str, report: Callable[[Moment], None], stop: Callable[[], bool]
) -> tuple[bool, Path]:
    from models.training.configs.base import read_config

    if phase == "data":
        from models.training.configs.emoji import EmojiConfig
        from models.training.emoji.build import build_emoji
        from models.training.loop.processes import join

        emoji = read_config(file, EmojiConfig)
        processes, _ = join(device)
        done = not processes.first or build_emoji(emoji, report, stop)
        return not processes.any(not done), emoji.out
    if phase == "autoencoder":
        from models.training.configs.autoencoder import AutoencoderRun
        from models.training.first_stage.run import run_autoencoder

        run = read_config(file, AutoencoderRun)
        return run_autoencoder(run, device, report=report, stop=stop), run.out
    if phase == "lora":
        from models.training.configs.diffusion import LoraRun
        from models.training.lora.run import run_lora

        adapter = read_config(file, LoraRun)
        return run_lora(adapter, device, report=report, stop=stop), adapter.out
    if phase == "compression-study":
        from models.evaluation.compression import study
        from models.training.configs.compression import CompressionStudy

        told = read_config(file, CompressionStudy)
        return study(told, device, report=report, stop=stop), told.out
    from models.training.configs.diffusion import LdmRun, UpscalerRun
    from models.training.diffusion.run import run_diffusion

    second = read_config(file, LdmRun) if phase == "ldm" else read_config(file, UpscalerRun)
    return run_diffusion(second, device, report=report, stop=stop), second.out


@contextmanager
def _joined() -> Iterator[None]:
    """Leave the other processes, which a phase may have joined, once all is done; who fails just ends."""
    yield
    from models.training.loop.processes import leave

    leave()


def _clock(minutes: float) -> Callable[[], bool]:
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end


@contextmanager
def _stoppable(over: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM end a run after its step or chunk, with that saved; a second Ctrl-C ends it at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as signal calls it)
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked or over()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(phase: str) -> Iterator[Callable[[Moment], None]]:
    """Show how far a run is, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[told]}"), console=plain(stderr=True)
    ) as bar:
        shown = bar.add_task(phase, total=None, told="", visible=False)  # of many processes one reports

        def report(moment: Moment) -> None:
            told = ", ".join(f"{name} {moment.values[name]:.4g}" for name in ("loss", "psnr") if name in moment.values)
            what = f"{phase}: {moment.what}"
            bar.update(shown, description=what, completed=moment.step, total=moment.steps, told=told, visible=True)

        yield report
