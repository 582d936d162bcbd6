"""A job inside the engine: its images, how far each is, and the finished picture that becomes of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from contract.request import InpaintRequest
from workers.engine.conditioning import Conditions, of_image, starting_latent, starting_noise
from workers.engine.denoise import Picture
from workers.engine.job_spec import JobSpec
from workers.engine.messages import Admission, Share, Stepped
from workers.engine.pictures import enlarge_alpha, paste, to_picture
from workers.engine.savepoint_state import restore
from workers.engine.scheduler import Batch, Slot


@dataclass(slots=True, eq=False)
class EngineJob:
    """One admitted job. `pictures` is empty until it is prepared; `unfinished` are images without an answer yet."""

    admission: Admission
    blue: JobSpec
    pictures: list[Picture] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    step: int = 0
    denoise_s: float = 0.0  # of all calls that it took part in
    gpu_s: float = 0.0  # its rows' part of them

    @property
    def job_id(self) -> str:
        return self.admission.job_id

    @property
    def strict(self) -> bool:
        return self.admission.request.determinism == "strict"

    @property
    def steps(self) -> int:
        """The user's steps over all images."""
        return self.blue.plan.steps * self.admission.request.num_images

    def start(self, conditions: Conditions) -> None:
        """Make the images' first latents, or those of the snapshot. A snapshot of another plan starts anew."""
        request = self.admission.request
        self.unfinished = set(range(request.num_images))
        self.pictures = [self._picture(seed, conditions) for seed in request.seeds]
        if self.admission.snapshot is not None:
            try:
                restore(self.pictures, self.admission.snapshot)
            except ValueError:  # another version's state: `Prepared.step` says that nothing was resumed
                self.pictures = [self._picture(seed, conditions) for seed in request.seeds]
        self.step = sum(picture.step for picture in self.pictures)

    def _picture(self, seed: int, conditions: Conditions) -> Picture:
        x_T, conditions = starting_noise(self.blue, seed), of_image(self.blue, conditions, seed)
        scale = self.admission.request.guidance if self.blue.guided else None
        z_t = starting_latent(self.blue, conditions, x_T)
        return Picture(seed, self.blue.plan, conditions, scale, x_T, z_t)

    def slots(self) -> Iterator[Slot]:
        """A slot for every image that has rows left."""
        for index, picture in enumerate(self.pictures):
            if not picture.done:
                yield self._slot(index, picture)

    def _slot(self, index: int, picture: Picture) -> Slot:
        admission = self.admission
        return Slot(
            job_id=self.job_id,
            index=index,
            model=self.blue.model.id,
            shape=self.blue.latent_shape,
            rows_per_step=2 if self.blue.guided else 1,
            plan_len=len(self.blue.plan.rows),
            position=picture.position,
            lane=admission.request.priority,
            strict=self.strict,
            alone=admission.alone,
            deadline=admission.deadline,
        )

    def share(self, batch: Batch, seconds: float) -> Share:
        """Its part in a call of `seconds`, added to what it cost so far."""
        rows = sum(slot.rows_per_step for slot in batch.slots if slot.job_id == self.job_id)
        jobs = len({slot.job_id for slot in batch.slots})
        self.denoise_s += seconds
        self.gpu_s += seconds * rows / batch.rows
        return Share(rows, batch.rows, jobs, seconds, self.denoise_s, self.gpu_s)

    def progress(self, share: Share) -> Stepped | None:
        """What to report after a call; None if no user's step ended in it."""
        step = sum(picture.step for picture in self.pictures)
        if step == self.step:
            return None
        self.step = step
        return Stepped(self.job_id, step, self.steps, share)

    def wants_preview(self) -> bool:
        """Whether image 0 just passed a step whose preview was asked for."""
        every, first = self.admission.request.preview_every, self.pictures[0]
        return every > 0 and not first.done and first.step % every == 0

    def answer(self, decoded: Tensor) -> Image.Image:
        """The picture that the client gets, of a decoded one 3 H W.

        Raises:
            JobFailed: NaN or infinite pixels.
        """
        picture = to_picture(self.blue.frame.crop(decoded, self.blue.scale))
        request, upload = self.admission.request, self.blue.upload
        if isinstance(request, InpaintRequest) and upload is not None and self.blue.mask is not None:
            return paste(upload, picture, self.blue.mask, request.feather)
        return enlarge_alpha(upload, picture) if upload is not None and request.kind == "upscale" else picture
