"""The training of an autoencoder, with or without a discriminator against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoints.layouts.first_stage import save_first_stage
from models.features.network import FeatureNetwork
from models.networks.autoencoder import Autoencoder
from models.networks.quantize import Quantizer
from models.training.configs.autoencoder import AutoencoderRun
from models.training.data.folder import Folder
from models.training.data.loader import centred, fixed_pictures, picture_batches
from models.training.data.order import order_digest
from models.training.first_stage.codebook import CodeUse, flat, k_means, standardise, vectors_of
from models.training.first_stage.discriminator import PatchDiscriminator, adaptive_weight, hinge
from models.training.first_stage.losses import kl_divergence, psnr, reconstruction_losses, unit_penalty
from models.training.loop.arithmetic import compiled, computing
from models.training.loop.draws import generator, normals
from models.training.loop.logbook import MEASURED
from models.training.loop.players import Losses, Player
from models.training.loop.processes import Processes

NETWORK, DISCRIMINATOR = "autoencoder", "discriminator"
SHOWN, MEASURED_ON = 16, 32  # pictures
FOLDER = "first_stage"  # of a run: what stage 2 reads


class TrainedAutoencoder(nn.Module):
    """The autoencoder with what is kept about its codebook."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.network = network
        self.use = CodeUse(network.config.codebook)

    def forward(self, x: Tensor, noise: Tensor | None, added: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return reconstruction b 3 H W, latents b d h w before noise, and a KL posterior's log variance.

        noise: of a KL posterior, of unit variance. added: to latents before they are decoded.
        """
        if self.network.config.kind == "vq":
            z = self.network.encode(x)
            return self.decoded(z if added is None else z + added), z, None
        mean, logvar = self.network.moments(x)
        z = mean if noise is None else mean + noise * torch.exp(0.5 * logvar)
        return self.decoded(z if added is None else z + added), mean, logvar

    def decoded(self, z: Tensor) -> Tensor:
        """Decode latents as they are, not quantised."""
        return self.network.decode(z, quantize=False)


@dataclass(frozen=True, slots=True)
class Made:
    """What the autoencoder made of a micro-batch, for the discriminator after it."""

    real: Tensor
    reconstruction: Tensor


class FirstStageTraining:
    """A `Stage` of the loop: reconstruction against regulariser and, later in the run, discriminator."""

    def __init__(
        self,
        config: AutoencoderRun,
        network: Autoencoder,
        folders: tuple[Folder, Folder],
        processes: Processes,
        device: torch.device,
        features: FeatureNetwork | None,
    ) -> None:
        self.config, self.folder, self.held_out = config, *folders
        self.processes, self.device, self.features = processes, device, features
        self.module = TrainedAutoencoder(network).to(device)
        self.module.use.filled.fill_(config.start_from is not None and self.quantised_from == 0)
        self._players = {NETWORK: Player.of(self.module, config.optimizer, config.ema)}
        if config.losses.adversarial:
            self.discriminator = _discriminator(config.seed).to(device)
            self._players[DISCRIMINATOR] = Player.of(self.discriminator, config.optimizer)
        self._forward = compiled(config, device, self.module.forward)
        self._made: dict[int, Made] = {}
        self._counts = torch.zeros(network.config.codebook, device=device)

    @property
    def players(self) -> Mapping[str, Player]:
        return self._players

    @property
    def inputs(self) -> Mapping[str, str]:
        return {"set of pictures": self.folder.fingerprint, **order_digest(self.folder, self.config.data)}

    @property
    def quantised_from(self) -> int:
        """The step from which latents are quantised; beyond the run for KL."""
        steps = self.config.steps
        return steps if self.config.autoencoder.kind == "kl" else round(self.config.codebook.continuous * steps)

    def batches(self, step: int) -> Iterator[tuple[Sequence[int], object]]:
        for numbers, pixels in picture_batches(self.config, self.folder, self.processes, step):
            yield numbers, (numbers, pixels)

    def before(self, step: int) -> None:
        if step == self.quantised_from and not self.module.use.filled:
            self._fill_codebook()
        if self.config.autoencoder.kind == "vq" and self.config.codebook.then == "decoder":
            free = step < self.quantised_from
            for part in (self.module.network.encoder, self.module.network.quant_conv, self.module.network.quantize):
                part.requires_grad_(free)

    def plays(self, player: str, step: int) -> bool:
        return player == NETWORK or step >= self.config.losses.adversarial_from * self.config.steps

    def losses(self, player: str, part: int, batch: object, step: int) -> Losses:
        if player == DISCRIMINATOR:
            made = self._made.pop(part)
            with computing(self.config, self.device):
                real, fake = self.discriminator(made.real), self.discriminator(made.reconstruction)
            return {"loss": hinge(real.float(), fake.float()).sum()}
        assert isinstance(batch, tuple)
        numbers, pixels = batch
        x = centred(self._cropped(pixels, step).to(self.device))
        with computing(self.config, self.device):
            reconstruction, regulariser = self._reconstructed(x, numbers, part, step)
        return self._weighed(x, reconstruction.float(), regulariser, part, step)

    def _cropped(self, pixels: Tensor, step: int) -> Tensor:
        """Cut the same square out of all pictures of a step."""
        if not self.config.crops:
            return pixels
        rng = generator(self.config.seed, "crop", step)
        size = int(rng.choice(self.config.crops))
        top, left = (int(v) for v in rng.integers(pixels.shape[-1] - size + 1, size=2))
        return pixels[..., top : top + size, left : left + size]

    def _reconstructed(
        self, x: Tensor, numbers: Sequence[int], part: int, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        network, losses = self.module.network, self.config.losses
        if step >= self.quantised_from:
            return self._quantised(x, numbers, part, step)
        noise = self._noise(x, numbers, "posterior") if network.config.kind == "kl" else None
        added = self.config.latent_noise * self._noise(x, numbers, "latent") if self.config.latent_noise else None
        r, z, logvar = self._forward(x, noise, added)
        if logvar is None:
            return r, {"unit": losses.unit * unit_penalty(z.float())}
        return r, {"kl": losses.kl * kl_divergence(z.float(), logvar.float())}

    def _noise(self, x: Tensor, numbers: Sequence[int], purpose: str) -> Tensor:
        config = self.module.network.config
        shape = (config.embed_dim, x.shape[2] // config.factor, x.shape[3] // config.factor)
        return normals(self.config.seed, purpose, numbers, shape).to(self.device)

    def _quantised(self, x: Tensor, numbers: Sequence[int], part: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode codes: straight through where the encoder learns on (van den Oord et al. 2017, Eq. 3)."""
        network, config = self.module.network, self.config.codebook
        z = network.encode(x).float()
        if config.noise:
            spread = torch.tensor([generator(self.config.seed, "spread", n).random() for n in numbers])
            z = z + config.noise * spread.to(z)[:, None, None, None] * self._noise(x, numbers, "code")
        if config.then == "all" and part == 0:
            self._restart(flat(z), step)
        indices = network.quantize.indices(z)
        codes = network.quantize.embedding(indices).movedim(-1, 1)  # b d h w
        self._note(indices, part)
        if config.then == "decoder":
            return self.module.decoded(codes.detach()), {}
        regulariser = F.mse_loss(codes, z.detach(), reduction="none").mean((1, 2, 3))
        commitment = F.mse_loss(z, codes.detach(), reduction="none").mean((1, 2, 3))
        r = self.module.decoded(z + (codes - z).detach())
        return r, {"codebook": regulariser, "commitment": config.commitment * commitment}

    def _restart(self, vectors: Tensor, step: int) -> None:
        average = self._players[NETWORK].average
        assert isinstance(average, TrainedAutoencoder)
        codes = [m.network.quantize.embedding.weight.data for m in (self.module, average)]
        seed = int(generator(self.config.seed, "restart", step).integers(2**31))
        self.module.use.restart(codes, self.processes.gather(vectors), self.config.codebook.restart_every, seed)

    def _note(self, indices: Tensor, part: int) -> None:
        """Note which codes a step used once its last micro-batch is there."""
        counts = torch.bincount(indices.flatten(), minlength=len(self._counts)).float()
        self._counts = counts if part == 0 else self._counts + counts
        if part == self.config.accumulate - 1:
            self.module.use.note(self.processes.sum(self._counts))

    def _named(self, loss: str) -> str:
        """Return what the log calls a loss: a perceptual one by its network, too."""
        return f"{loss}, {self.features.name}" if loss == "perceptual" and self.features is not None else loss

    def _weighed(self, x: Tensor, r: Tensor, regulariser: dict[str, Tensor], part: int, step: int) -> Losses:
        config = self.config.losses
        told = reconstruction_losses(config, self.features, r, x)
        reconstruction = torch.stack([getattr(config, name) * loss.sum() for name, loss in told.items()]).sum()
        loss = reconstruction
        for value in regulariser.values():
            loss = loss + value.sum()
        sums = {self._named(name): value.sum() for name, value in (told | regulariser).items()}
        if config.adversarial and self.plays(DISCRIMINATOR, step):
            self._made[part] = Made(x, r.detach())
            sums["adversarial"], weight = self._against(r, reconstruction, step)
            loss = loss + weight * sums["adversarial"]
        return {"loss": loss, **sums, "psnr": psnr(r.detach(), x).sum()}

    def _against(self, r: Tensor, reconstruction: Tensor, step: int) -> tuple[Tensor, Tensor | float]:
        """Return the adversarial loss and its weight, which warms up after the discriminator began."""
        config = self.config.losses
        self.discriminator.requires_grad_(False)
        with computing(self.config, self.device):
            adversarial = -self.discriminator(r).float().mean(dim=(1, 2, 3)).sum()
        self.discriminator.requires_grad_(True)
        done = step / self.config.steps - config.adversarial_from
        warm = min(1.0, done / config.adversarial_warmup) if config.adversarial_warmup else 1.0
        last = self.module.network.decoder.conv_out.weight
        return adversarial, config.adversarial * warm * adaptive_weight(
            reconstruction, adversarial, last, self.processes
        )

    @torch.no_grad()
    def _fill_codebook(self) -> None:
        """Begin to quantise, from the averaged weights; one process makes the codes, which no GPU makes twice alike."""
        player, network = self._players[NETWORK], self.module.network
        player.settle()
        if self.processes.first:
            self._make_codes(network.eval())
            network.train()
        for tensor in network.state_dict().values():
            self.processes.take_first(tensor)
        self.module.use.filled.fill_(True)
        assert player.average is not None
        player.average.load_state_dict(self.module.state_dict())

    def _make_codes(self, network: Autoencoder) -> None:
        """Fill the codebook by k-means on the latents of training pictures."""
        run, config = self.config, self.config.codebook
        pictures = min(len(self.folder.items), run.steps * run.batch)
        unit = standardise(network, vectors_of(self._latents(network), pictures, config.vectors, run.seed))
        assert isinstance(network.quantize, Quantizer)
        centres = k_means(unit, network.config.codebook, config.rounds, run.seed)
        network.quantize.embedding.weight.copy_(centres)

    def _latents(self, network: Autoencoder) -> Iterator[tuple[int, Tensor]]:
        """Encode the pictures of the first epoch one by one: alike to the last bit, whatever batches they came in."""
        for numbers, pixels in picture_batches(self.config, self.folder, Processes(), 0):
            for number, picture in zip(numbers, torch.split(pixels, 1), strict=True):
                if number >= len(self.folder.items):
                    return
                yield number, network.encode(centred(picture.to(self.device)))

    @property
    def averaged(self) -> Autoencoder:
        """The network with averaged weights."""
        average = self._players[NETWORK].average
        assert isinstance(average, TrainedAutoencoder)
        return average.network

    @torch.no_grad()
    def pictures(self) -> Tensor:
        x = fixed_pictures(self.folder, self.config.data, self.config.seed, SHOWN)
        r = self._through(x)
        return torch.stack([x, r], dim=1).flatten(0, 1)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        if not self.held_out.items:
            return {}
        x = fixed_pictures(self.held_out, self.config.data, self.config.seed, MEASURED_ON)
        return {f"{MEASURED}psnr": float(psnr(self._through(x), x).mean())}

    def _through(self, x: Tensor) -> Tensor:
        network, quantise = self.averaged, bool(self.module.use.filled)
        return torch.cat([network.decode(network.encode(p.to(self.device)), quantise) for p in torch.split(x, 4)]).cpu()

    @torch.no_grad()
    def save(self) -> None:
        network = self.averaged
        if network.config.kind == "vq" and not self.module.use.filled:
            return  # no stage 2 may take first weights for codes
        x = fixed_pictures(self.folder, self.config.data, self.config.seed, MEASURED_ON)
        scale = 1.0
        if network.config.kind == "kl":
            scale = 1 / float(torch.cat([network.encode(p.to(self.device)) for p in torch.split(x, 4)]).std())
        save_first_stage(network.config, network.state_dict(), scale, self.config.out / FOLDER)


def _discriminator(seed: int) -> PatchDiscriminator:
    """Make the discriminator with first weights that are a function of the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator()
