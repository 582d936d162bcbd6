"""Fields of the web UI's that have no meaning here: told, unless they say what is done anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from contract.job import JobWarning
from service.compat.a1111.hires import FIXED
from service.compat.fields import told

# Of no use by itself, whatever it says: it belongs to a field that is told, or names how the web UI works inside.
SILENT = FIXED | {
    "subseed",
    "do_not_save_samples",
    "do_not_save_grid",
    "s_tmax",
    "s_tmin",
    "override_settings_restore_afterwards",
    "refiner_switch_at",
    "comments",
    "firstphase_width",
    "firstphase_height",
    "hr_scale",
    "hr_upscaler",
    "hr_second_pass_steps",
    "hr_resize_x",
    "hr_resize_y",
    "hr_additional_modules",
    "distilled_cfg_scale",
    "script_args",
    "force_task_id",
    "infotext",
    "image_cfg_scale",
    "codeformer_weight",
    "upscale_first",
    "show_extras_results",
}
# What these say where they say nothing; false, 0, "" and empty lists do everywhere.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "seed_resize_from_h": (-1,),
    "seed_resize_from_w": (-1,),
    "s_noise": (1,),
    "initial_noise_multiplier": (1,),
    "upscaler_2": ("None",),
    "sd_vae": ("Automatic", "None"),
    "CLIP_stop_at_last_layers": (1,),
    "samples_format": ("png",),
}


def ignored(sent: Mapping[str, Any], known: frozenset[str] = frozenset()) -> Iterator[JobWarning]:
    """Tell of what was sent, isn't `known` and would change something there."""
    for name, value in sent.items():
        if name in known or name in SILENT or not value or value in NEUTRAL.get(name, ()):
            continue
        yield told(name, f"{name} has no meaning here; it was ignored")
