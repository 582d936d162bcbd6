"""A job inside the engine: its images, how far each is, and the finished picture that becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contract.add_ons import CONTROL_ROW, LATENT
from contract.request import Txt2ImgRequest
from workers.engine.conditioning import Conditions, ending_latent, of_image, starting_latent, starting_noise
from workers.engine.decoding import Sketch, UndecodedImage, handed_on, previews
from workers.engine.device import or_none
from workers.engine.job_spec import JobSpec
from workers.engine.kinds import finish
from workers.engine.latent_state import LatentState, Saved, check_saved, restore, saved_of, snapshot
from workers.engine.messages import Admission, Share, Stepped
from workers.engine.pictures import to_picture
from workers.engine.scheduler import Batch, Slot


@dataclass(frozen=True, slots=True)
class Passed:
    """How far a call takes a job: the user's steps over all images, and those images that pass one to be shown."""

    step: int
    sketches: Mapping[int, Sketch]


@dataclass(slots=True, eq=False)
class EngineJob:
    """One admitted job. `specs` are its stages, through which each image goes by itself. `images` is empty until it is
    prepared; `unfinished` are those without an answer yet."""

    admission: Admission
    specs: list[JobSpec]
    images: list[LatentState] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    step: int = 0
    sketches: dict[int, Sketch] = field(default_factory=dict)  # of images whose previews are due
    untold: Stepped | None = None  # the step that comes with them
    denoise_s: float = 0.0  # of all calls that it took part in
    gpu_s: float = 0.0  # its rows' part of them

    @property
    def job_id(self) -> str:
        return self.admission.job_id

    @property
    def steps(self) -> int:
        """The user's steps over all images."""
        return sum(spec.plan.steps for spec in self.specs) * self.admission.request.num_images

    def spec(self, index: int) -> JobSpec:
        """Return the stage that image `index` is in."""
        return self.specs[self.images[index].stage]

    @property
    def last(self) -> JobSpec:
        """The stage whose pictures are the answers."""
        return self.specs[-1]

    def start(self, prepare: Callable[[JobSpec], Conditions]) -> None:
        """Make the images' first latents, or those of the snapshot. A snapshot of another plan starts anew.

        Raises:
            LatentdError: as `prepare`, which runs the networks that come before a stage's first step.
        """
        request, conditions = self.admission.request, prepare(self.specs[0])
        self.unfinished = set(range(request.num_images))
        self.images = [self._image(0, self.specs[0], seed, conditions) for seed in request.seeds]
        if self.admission.snapshot is not None:
            try:
                saved = saved_of(self.admission.snapshot, request.num_images)
                pairs = zip(self.images, saved, strict=True)
                self.images = [self._resumed(image, each, prepare) for image, each in pairs]
            except ValueError:  # another version's state: `Prepared.step` says that nothing was resumed
                self.images = [self._image(0, self.specs[0], seed, conditions) for seed in request.seeds]
        self.step = self.passed({}).step

    def _image(self, stage: int, spec: JobSpec, seed: int, conditions: Conditions) -> LatentState:
        """Make an image that begins a stage; `spec` has what that begins with."""
        conditions, x_T = of_image(spec, conditions, seed), starting_noise(spec, seed)
        scale, z_t = spec.request.guidance if spec.guided else None, starting_latent(spec, conditions, x_T)
        state = LatentState(seed, spec.plan, conditions, scale, x_T, z_t, guidance_rescale=spec.request.rescale)
        state.adapters = None if spec.adapters is None else spec.adapters.unet
        state.controls, state.purpose, state.stage = spec.controls, spec.purpose, stage
        state.image_guidance = spec.request.image_guidance
        state.passed = sum(before.plan.steps for before in self.specs[:stage])
        if stage and conditions.inputs.concat is not None and "image" in spec.pictures:
            state.picture = torch.from_numpy(np.array(spec.pictures["image"]))
        return state

    def _resumed(self, image: LatentState, saved: Saved, prepare: Callable[[JobSpec], Conditions]) -> LatentState:
        """Return an image as it was saved.

        Raises:
            ValueError: the state is of other stages or another plan.
        """
        if saved.stage:
            image = self._begun(image.seed, saved, prepare)
        restore(image, saved)
        return image

    def _begun(self, seed: int, saved: Saved, prepare: Callable[[JobSpec], Conditions]) -> LatentState:
        if not 0 < saved.stage < len(self.specs):
            raise ValueError(f"a state of stage {saved.stage} for a job of {len(self.specs)}")
        spec = self.specs[saved.stage]
        check_saved(saved, spec.latent_shape, (spec.frame.height, spec.frame.width, 3))
        # For a first latent, which isn't kept.
        spec = replace(spec, latent=saved.latents[0].to(spec.model.device))
        if saved.picture is None and spec.scale > 1:
            raise ValueError(f"a state of stage {saved.stage} without the picture that it enlarges")
        if saved.picture is not None:
            picture = Image.fromarray(saved.picture.numpy(), "RGB")
            spec = replace(spec, pictures={**spec.pictures, "image": picture})
        return self._image(saved.stage, spec, seed, prepare(spec))

    def enlarge(self, index: int, prepare: Callable[[JobSpec], Conditions]) -> Slot:
        """Bring an image that is at the end of its stage into the next. Raises as `start`; JobFailed: NaN pixels."""
        image = self.images[index]
        before, after = self.specs[image.stage : image.stage + 2]
        spec = handed_on(before, after, image.z_t, by_latents=self._by_latents)
        begun = self._image(image.stage + 1, spec, image.seed, prepare(spec))
        begun.denoise_s, self.images[index] = image.denoise_s, begun
        return self._slot(index, begun)

    @property
    def _by_latents(self) -> bool:
        """Whether a second pass begins with the enlarged latent, and not with a picture."""
        request = self.admission.request
        return isinstance(request, Txt2ImgRequest) and request.hires is not None and request.hires.upscaler == LATENT

    def snapshot(self) -> bytes | None:
        """Return its state, for the admission of a later execution; None before it is prepared."""
        return snapshot(self.images) if self.images else None

    def slots(self) -> Iterator[Slot]:
        """Make a slot for every image."""
        return (self._slot(index, image) for index, image in enumerate(self.images))

    def _slot(self, index: int, image: LatentState) -> Slot:
        spec = self.specs[image.stage]
        return Slot(
            job_id=self.job_id,
            index=index,
            model=spec.model.id,
            shape=spec.latent_shape,
            rows_per_step=spec.rows_per_step,
            plan_len=len(spec.plan.rows),
            position=image.position,
            lane=self.admission.request.priority,
            strict=self.admission.request.determinism == "strict",
            unguided=spec.plan.unguided,
            goes_on=spec is not self.last,
            claimed_for=self.admission.request.model,
        )

    def undecoded(self, index: int) -> UndecodedImage:
        """Return image `index`, denoised."""
        return UndecodedImage(self.job_id, index, self.last, ending_latent(self.last, self.images[index].z_t))

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

    def passed(self, x0: Mapping[int, Tensor]) -> Passed:
        """Tell where a call that was just begun takes it; `x0` is what that predicts of each image in it, c h w."""
        sketches = {index: Sketch(self.spec(index), each) for index, each in x0.items() if self._shows(index)}
        return Passed(sum(image.passed + image.step for image in self.images), sketches)

    def _shows(self, index: int) -> bool:
        """Tell whether an image just passed a step whose preview was asked for."""
        every, image = self.admission.request.preview_every, self.images[index]
        ended = image.done and self.spec(index) is self.last
        return every > 0 and not ended and image.between_steps and (image.passed + image.step) % every == 0

    def progress(self, share: Share, passed: Passed) -> list[Stepped]:
        """Return what to report after a call; a step waits for the previews that are due (`previewed`)."""
        if passed.step == self.step:
            return []
        self.step, self.sketches = passed.step, {**self.sketches, **passed.sketches}
        stepped = Stepped(self.job_id, self.step, self.steps, share)
        overtaken = [] if self.untold is None else [self.untold]  # what had to be done before took its turn
        self.untold = stepped if self.sketches else None
        return overtaken if self.sketches else [stepped]

    def previewed(self) -> list[Stepped]:
        """Make what is due and return the step that waited for it; alone, where previews don't fit in memory."""
        stepped, sketches = self.untold, self.sketches
        self.untold, self.sketches = None, {}
        return [] if stepped is None else [replace(stepped, previews=or_none(lambda: previews(sketches)) or {})]

    def answer(self, decoded: Tensor) -> Image.Image:
        """Return the picture that the client gets, of a decoded one 3 H W.

        Raises:
            JobFailed: NaN or infinite pixels.
        """
        return finish(self.last, to_picture(self.last.frame.crop(decoded, self.last.scale)))
