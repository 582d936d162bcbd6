"""One picture of the default model by diffusers, in float32 and bfloat16, and by our engine, in turn in one process.

    python -m tests.perf.against_diffusers [--images 1] [--rounds 5] [--threads 2]

Prints a table of medians: seconds a picture and how often a side fits into diffusers', of the wall and (in brackets) of
the cores' time, which tells more while others load the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from contract.request import parse_request
from core.settings import Settings
from workers.engine.engine import run
from workers.engine.messages import Admission
from workers.library.loading import load_engine

EMOJI = Path(__file__).parents[2] / "models" / "weights" / "emoji"
PROMPT, STEPS, GUIDANCE, SIDE = "red heart", 12, 4.0, 256


def theirs(dtype: torch.dtype, images: int) -> Callable[[], object]:
    """Its networks and scheduler in the loop of its pipelines, none of which takes these 33 channels; the wholly masked
    picture is encoded once, as ours is."""
    load = diffusers.DiffusionPipeline.from_pretrained
    pipeline = load(EMOJI, torch_dtype=dtype)  # type: ignore[no-untyped-call]
    vae, unet, scheduler = pipeline.vae, pipeline.unet, pipeline.scheduler
    size = (images, unet.config.out_channels, SIDE // 16, SIDE // 16)
    with torch.inference_mode():
        blank = vae.encode(torch.zeros(1, 3, SIDE, SIDE, dtype=dtype)).latent_dist.mode() * vae.config.scaling_factor
        concat = torch.cat([torch.ones_like(blank[:, :1]), blank], dim=1).expand(2 * images, -1, -1, -1)

    @torch.inference_mode()
    def draw() -> object:
        tokens = pipeline.tokenizer(["", PROMPT], padding="max_length", max_length=32, return_tensors="pt")
        context = pipeline.text_encoder(**tokens).last_hidden_state.repeat_interleave(images, 0)  # 2b n d
        latents = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            both = torch.cat([scheduler.scale_model_input(torch.cat([latents, latents]), t), concat], dim=1)
            out_u, out_c = unet(both, t, encoder_hidden_states=context, return_dict=False)[0].chunk(2)
            latents = scheduler.step(out_u + GUIDANCE * (out_c - out_u), t, latents, return_dict=False)[0]
        pictures = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return pipeline.image_processor.postprocess(pictures)

    return draw


def ours(dtype: str, threads: int, images: int) -> Callable[[], object]:
    """The engine as `latentd worker` and `latentd generate` make it."""
    engine = load_engine(Settings(models_dir=EMOJI.parent, threads=threads, dtype=dtype), ["emoji"], "cpu")  # type: ignore[arg-type]
    fields = {"kind": "txt2img", "model": "emoji", "prompt": PROMPT, "width": SIDE, "height": SIDE, "steps": STEPS}
    request = parse_request({**fields, "sampler": "ddim", "guidance_scale": GUIDANCE, "seed": 1, "num_images": images})
    return lambda: run(engine, Admission("bench", request), lambda _: None)


Clock = Callable[[], float]


def measure(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of the wall and of this process's cores, for each side; they take turns after an uncounted one."""
    clocks: tuple[Clock, Clock] = (time.perf_counter, time.process_time)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, draw in sides.items():
            wall, cores = (clock() for clock in clocks)
            draw()
            if turn:
                seconds[name].append((clocks[0]() - wall, clocks[1]() - cores))
    return {name: _medians(values) for name, values in seconds.items()}


def _medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    walls, cores = zip(*values, strict=True)
    return statistics.median(walls), statistics.median(cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 1), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = {
        "diffusers float32": theirs(torch.float32, args.images),
        "diffusers bfloat16": theirs(torch.bfloat16, args.images),
        "latentd float32": ours("float32", args.threads, args.images),
        "latentd bfloat16": ours("bfloat16", args.threads, args.images),
    }
    medians = measure(sides, args.rounds)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [f"torch {torch.__version__}, diffusers {diffusers.__version__}, {args.threads} threads, load {load}"]
    for name, (wall, cores) in medians.items():
        gain = "; ".join(
            f"{medians[f'diffusers {dtype}'][0] / wall:.2f} ({medians[f'diffusers {dtype}'][1] / cores:.2f}) × {dtype}"
            for dtype in ("float32", "bfloat16")
        )
        each = f"{wall / args.images:.3f} s ({cores / args.images:.3f} s of cores) a picture"
        lines.append(f"{name:20} {each}; {gain} of diffusers")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
