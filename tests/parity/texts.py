"""Prompts: weights, chunks, commas, clip skip and textual inversion, to token numbers, contexts and latents.

No case of compel is here: its syntax and its numbers are others, and are not offered under A1111's name or any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from contract.prompts import COMMA_REACH, PromptSyntax
from models.add_ons.embeddings.files import read_embedding
from models.add_ons.embeddings.library import Embeddings, combined
from models.checkpoints.load import load
from models.inputs import Inputs
from models.networks.conditioning import Encoded
from models.pipeline.pipeline import LatentDiffusion
from models.samplers import compile_plan
from models.samplers.update import apply, guide, stack_history, stack_rows
from tests.parity.case import Case, NotCoveredError
from tests.parity.pipelines import SAMPLERS
from workers.prompts import Reading, chunks_of, encode

UNPARSED = ("clip_skip",)  # cases of plain prompts that are read otherwise


class Texts:
    """Outputs of a pipeline whose prompts are more than plain."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model: LatentDiffusion = load(case.weights)
        self.sampling: dict[str, Any] = case.spec.get("sampling", {})
        self.prompts: list[str] = case.spec["prompts"]

    def __call__(self, output: str) -> Tensor:
        if match := re.fullmatch(r"(ids|ids_2|weights|context|pooled)_(comma_)?(\d+)", output):
            return self.numbered(match[1], self.prompts[int(match[3])], COMMA_REACH if match[2] else 0)
        if match := re.fullmatch(r"(prompt_embeds|negative_prompt_embeds|latent)_skip(\d)", output):
            return self.skipped(match[1], int(match[2]))
        if match := re.fullmatch(r"expanded_ids(_2)?", output):
            return torch.cat([self.numbered(f"ids{match[1] or ''}", prompt, 0) for prompt in self.prompts])
        encoded: dict[str, Callable[[], Tensor | None]] = {
            "prompt_embeds": lambda: self.encoded.context,
            "pooled_prompt_embeds": lambda: self.encoded.pooled,
        }
        value = encoded[output]() if output in encoded else self.latent(output)
        if value is None:
            raise NotCoveredError(output)
        return value

    @cached_property
    def embeddings(self) -> Embeddings | None:
        """Those of the case by the words that its prompts have for them."""
        names: list[str] = self.case.spec["files"].get("embeddings", [])
        files = {
            word: read_embedding(self.case.folder / name)
            for word, name in zip(self.case.spec.get("tokens", []), names, strict=True)
        }
        return combined(self.model, files, "case") if files else None

    @property
    def syntax(self) -> PromptSyntax:
        return "weighted" if "parsed" in self.case.spec else "plain"

    def reading(self, **changes: Any) -> Reading:
        return Reading(**{"syntax": self.syntax, "embeddings": self.embeddings} | changes)

    def numbered(self, what: str, prompt: str, reach: int) -> Tensor:
        """Token numbers and weights of chunks, and what one prompt becomes."""
        reading = self.reading(comma_reach=reach)
        if what in ("context", "pooled"):
            encoded = encode(self.model, prompt, reading)
            value = encoded.context if what == "context" else encoded.pooled
            assert value is not None
            return value
        tower = 1 if what == "ids_2" else 0
        chunks = chunks_of(self.model, prompt, reading)[tower]
        if what == "weights":
            window = self.model.tokenizers[0].window
            padded = [[1.0, *chunk.weights, *[1.0] * (window - 1 - len(chunk.weights))] for chunk in chunks]
            return torch.tensor(padded)
        return torch.tensor([self.model.tokenizers[tower].framed(chunk.numbers) for chunk in chunks])

    def skipped(self, what: str, clip_skip: int) -> Tensor:
        reading = self.reading(clip_skip=clip_skip)
        prompts = {name: self.read(self.case.spec[name], reading) for name in ("prompts", "negative_prompts")}
        if what == "latent":
            return self.drawn(prompts["prompts"], prompts["negative_prompts"])
        return prompts["prompts" if what == "prompt_embeds" else "negative_prompts"].context

    @cached_property
    def encoded(self) -> Encoded:
        return self.read(self.prompts, self.reading())

    def read(self, prompts: Sequence[str], reading: Reading) -> Encoded:
        """A batch of prompts of as many chunks."""
        parts = [encode(self.model, prompt, reading) for prompt in prompts]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Encoded(torch.cat([part.context for part in parts]), torch.cat(pooled) if pooled else None)

    def latent(self, output: str) -> Tensor:
        if output == "latent_no_negative_prompt":
            assert self.encoded.pooled is not None
            zeros = Encoded(torch.zeros_like(self.encoded.context), torch.zeros_like(self.encoded.pooled))
            return self.drawn(self.encoded, zeros)
        if output != "latent":
            raise NotCoveredError(output)
        if "parsed" not in self.case.spec:
            return self.drawn(self.encoded, self.read([""] * len(self.prompts), self.reading()))
        long = next(p for p in self.prompts if len(p) > 200 and "(" not in p)
        positive = encode(self.model, long, self.reading(comma_reach=0))
        return self.drawn(positive, encode(self.model, "", self.reading()))

    def drawn(self, positive: Encoded, negative: Encoded) -> Tensor:
        """A guided run; the halves may have contexts of different lengths."""
        kind = self.case.config["components"]["scheduler"]
        plan = compile_plan(SAMPLERS[kind], self.model.schedule, int(self.sampling["steps"]))
        scale = torch.tensor(float(self.sampling["guidance_scale"]))
        z_t, history = self.case.inputs["latents"], list[Tensor]()
        for i, row in enumerate(plan.rows):
            t = torch.full((len(z_t),), row.t)
            out_u, out_c = (self.model.predict(z_t, t, self.inputs(half)) for half in (negative, positive))
            c = stack_rows([row] * len(z_t), z_t.device)
            stored = stack_history([[p[b] for p in history] for b in range(len(z_t))], c.depth, z_t[0])
            z_t, p, _ = apply(c, guide(out_u, out_c, scale, [0.0] * len(z_t)), z_t, stored, None)
            history = [p, *history][: plan.history[i + 1]]
        return z_t

    def inputs(self, encoded: Encoded) -> Inputs:
        if encoded.pooled is None:
            return Inputs(encoded.context)
        told: Mapping[str, list[int]] = self.sampling
        numbers = [n for name in ("original_size", "crops_coords_top_left", "target_size") for n in told[name]]
        return Inputs(
            encoded.context, added=self.model.added(encoded.pooled, torch.tensor([numbers] * len(encoded.context)))
        )
