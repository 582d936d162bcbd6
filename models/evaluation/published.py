"""What the paper published of other methods, to stand apart from what is measured here: other data, other networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A table of the paper; its columns name the network that made the figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


TASKS = {
    "super-resolution": Published(
        "×4, ImageNet 64→256, as published (Rombach et al. 2022, Tab. 5)",
        ("method", "FID (Inception-v3)", "IS (Inception-v3)", "PSNR (dB)", "SSIM"),
        (
            ("Image Regression", "15.2", "121.1", "27.9", "0.801"),
            ("SR3", "5.2", "180.1", "26.4", "0.762"),
            ("LDM-4, 100 steps", "2.8", "166.3", "24.4", "0.69"),
            ("LDM-4 big, 100 steps", "2.4", "174.9", "24.7", "0.71"),
            ("LDM-4, 50 steps, guided", "4.4", "153.7", "25.8", "0.74"),
        ),
    ),
    "inpainting": Published(
        "Places, crops of 512, as published (Rombach et al. 2022, Tab. 7)",
        ("method", *(f"{name}, {masks}" for masks in ("40–50 % masked", "all masks") for name in (
            "FID (Inception-v3)", "LPIPS"))),
        (
            ("LDM-4 big, fine-tuned", "9.39", "0.246", "1.50", "0.137"),
            ("LDM-4 big", "12.89", "0.257", "2.40", "0.142"),
            ("LDM-4 with attention", "11.87", "0.257", "2.15", "0.144"),
            ("LDM-4 without attention", "12.60", "0.259", "2.37", "0.145"),
            ("LaMa, recomputed by the paper", "12.31", "0.243", "2.23", "0.134"),
            ("LaMa", "12.0", "0.24", "2.21", "0.14"),
            ("CoModGAN", "10.4", "0.26", "1.82", "0.15"),
            ("RegionWise", "21.3", "0.27", "4.75", "0.15"),
            ("DeepFill v2", "22.1", "0.28", "5.20", "0.16"),
            ("EdgeConnect", "30.5", "0.28", "8.37", "0.16"),
        ),
    ),
}  # fmt: skip
