"""The resolved request: every parameter of a job, as it will run."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field, computed_field

from contract.base import Kind, Wire
from contract.lanes import Lane

OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
MaskMode: TypeAlias = Literal["white", "black", "alpha", "auto"]
Determinism: TypeAlias = Literal["fast", "strict"]
SEEDS = 2**32


class Upload(Wire):
    """An uploaded picture as it was stored: bytes unchanged; sizes after EXIF rotation."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int


class Numerics(Wire):
    """What `strict` fixes for a job's life: equal numerics and build give equal bytes."""

    device: str
    dtype: str
    threads: int
    rows: int
    memory_format: str
    compiled: bool
    torch: str


class JobRequest(Wire):
    """A request with every parameter resolved; image k has seed (seed + k) mod 2³²."""

    kind: Kind
    model: str
    prompt: str = ""
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float = 1.0
    sampler: str
    eta: float = 0.0
    seed: int = Field(ge=0, lt=SEEDS)
    num_images: int = 1
    output_format: OutputFormat = "png"
    priority: Lane = "interactive"
    deadline_ms: int | None = None
    determinism: Determinism = "fast"
    preview_every: int = 0
    image: Upload | None = None
    mask: Upload | None = None
    mask_mode: MaskMode | None = None
    feather: int | None = None
    strength: float | None = None
    class_id: int | None = None
    noise_level: int | None = None
    webhook_url: str | None = Field(default=None, description="Where the gateway tells of the job's end.")
    numerics: Numerics | None = Field(default=None, description="Set when a strict job first starts.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seeds(self) -> list[int]:
        return [(self.seed + k) % SEEDS for k in range(self.num_images)]

    @property
    def guided(self) -> bool:
        """Whether each step needs two rows, with and without the condition."""
        return self.guidance_scale != 1.0

    @property
    def run_steps(self) -> int:
        """Steps that are run, over all images: `strength` < 1 leaves the last int(steps · strength), at least one."""
        return max(1, int(self.steps * (self.strength or 1.0))) * self.num_images

    @property
    def rows(self) -> int:
        """Network evaluations of the whole job, the unit of queue estimates."""
        return self.run_steps * (2 if self.guided else 1)

    def arguments(self) -> dict[str, Any]:
        """As JSON for the RQ job."""
        return self.model_dump(mode="json", round_trip=True)
