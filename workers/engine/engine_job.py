"""A job inside the engine: its images, how far each is, and the finished picture that becomes of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from contract.add_ons import CONTROL_ROW
from workers.engine.conditioning import Conditions, ending_latent, of_image, placed, starting_latent, starting_noise
from workers.engine.decoding import UndecodedImage
from workers.engine.job_spec import JobSpec
from workers.engine.kinds import finish
from workers.engine.latent_state import LatentState, restore, snapshot
from workers.engine.messages import Admission, Share, Stepped
from workers.engine.pictures import to_picture
from workers.engine.scheduler import Batch, Slot


@dataclass(frozen=True, slots=True)
class Passed:
    """How far a call takes a job: the user's steps over all images, and whether image 0 passes one to be shown."""

    step: int
    preview: bool


@dataclass(slots=True, eq=False)
class EngineJob:
    """One admitted job. `images` is empty until it is prepared; `unfinished` are those without an answer yet."""

    admission: Admission
    spec: JobSpec
    images: list[LatentState] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    due_preview: tuple[Stepped, Tensor] | None = None  # of image 0: the step that it comes with, and x0 c h w
    step: int = 0
    denoise_s: float = 0.0  # of all calls that it took part in
    gpu_s: float = 0.0  # its rows' part of them

    @property
    def job_id(self) -> str:
        return self.admission.job_id

    @property
    def steps(self) -> int:
        """The user's steps over all images."""
        return self.spec.plan.steps * self.admission.request.num_images

    def start(self, conditions: Conditions) -> None:
        """Make the images' first latents, or those of the snapshot. A snapshot of another plan starts anew."""
        request, conditions = self.admission.request, placed(conditions, self.spec.model)
        self.unfinished = set(range(request.num_images))
        self.images = [self._image(seed, conditions) for seed in request.seeds]
        if self.admission.snapshot is not None:
            try:
                restore(self.images, self.admission.snapshot)
            except ValueError:  # another version's state: `Prepared.step` says that nothing was resumed
                self.images = [self._image(seed, conditions) for seed in request.seeds]
        self.step = sum(image.step for image in self.images)

    def _image(self, seed: int, conditions: Conditions) -> LatentState:
        x_T, conditions = starting_noise(self.spec, seed), of_image(self.spec, conditions, seed)
        scale = self.admission.request.guidance if self.spec.guided else None
        z_t = starting_latent(self.spec, conditions, x_T)
        rescale, adapters = self.admission.request.rescale, self.spec.adapters
        state = LatentState(seed, self.spec.plan, conditions, scale, x_T, z_t, guidance_rescale=rescale)
        state.adapters = None if adapters is None else adapters.unet
        state.controls = self.spec.controls
        state.image_guidance = self.admission.request.image_guidance
        return state

    def snapshot(self) -> bytes | None:
        """Return its state, for the admission of a later execution; None before it is prepared."""
        return snapshot(self.images) if self.images else None

    def slots(self) -> Iterator[Slot]:
        """Make a slot for every image."""
        return (self._slot(index, image) for index, image in enumerate(self.images))

    def _slot(self, index: int, image: LatentState) -> Slot:
        return Slot(
            job_id=self.job_id,
            index=index,
            model=self.spec.model.id,
            shape=self.spec.latent_shape,
            rows_per_step=self.spec.rows_per_step,
            plan_len=len(self.spec.plan.rows),
            position=image.position,
            lane=self.admission.request.priority,
            strict=self.admission.request.determinism == "strict",
            unguided=self.spec.plan.unguided,
        )

    def undecoded(self, index: int) -> UndecodedImage:
        """Return image `index`, denoised."""
        return UndecodedImage(self.job_id, index, self.spec, ending_latent(self.spec, self.images[index].z_t))

    def share(self, batch: Batch, acting: Sequence[int], seconds: float) -> Share:
        """Return its part in a call of `seconds`, and add it to what it cost so far.

        `acting` are how many ControlNets each slot had.
        """
        shares = list(zip(batch.slots, batch.slot_rows, acting, strict=True))
        rows = sum(rows for slot, rows, _ in shares if slot.job_id == self.job_id)
        costs = [(slot.job_id, rows * (1.0 + CONTROL_ROW * controls)) for slot, rows, controls in shares]
        part = sum(cost for job_id, cost in costs if job_id == self.job_id) / sum(cost for _, cost in costs)
        jobs = len({slot.job_id for slot in batch.slots})
        self.denoise_s += seconds
        self.gpu_s += seconds * part
        return Share(rows, batch.rows, jobs, seconds, self.denoise_s, self.gpu_s)

    def passed(self) -> Passed:
        """Tell where a call that was just begun takes it."""
        return Passed(sum(image.step for image in self.images), self._wants_preview())

    def progress(self, share: Share, step: int) -> Stepped | None:
        """Return what to report after a call that took it to `step`; None if no user's step ended in it."""
        if step == self.step:
            return None
        self.step = step
        return Stepped(self.job_id, step, self.steps, share)

    def _wants_preview(self) -> bool:
        """Tell whether image 0 just passed a step whose preview was asked for."""
        every, first = self.admission.request.preview_every, self.images[0]
        return every > 0 and not first.done and first.step % every == 0

    def answer(self, decoded: Tensor) -> Image.Image:
        """Return the picture that the client gets, of a decoded one 3 H W.

        Raises:
            JobFailed: NaN or infinite pixels.
        """
        return finish(self.spec, to_picture(self.spec.frame.crop(decoded, self.spec.scale)))
