"""Whether pictures show what their prompts say, by a small contrastive model of the data's pictures and captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.evaluation.networks import SIDE, WIDTH, Small, at_side, small_data
from models.features.classifier import Classifier, ClassifierConfig
from models.training.data.folder import Folder
from models.training.data.loader import centred, floats
from models.training.data.pictures import draw
from models.training.loop.draws import generator
from models.training.loop.trainer import Progress, Report

DIM = 128  # of the space that pictures and texts share
BUCKETS = 8192  # of hashed words
BATCH = 48
RATE = 1e-3
TEMPERATURE = 0.07  # of CLIP (Radford et al. 2021) at its start
TOP = 5


class ContrastiveModel(nn.Module):
    """Convolutions on the picture, the mean of word vectors on the text; unit vectors that agree where they match."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = Classifier(ClassifierConfig(DIM, WIDTH))
        self.words = nn.EmbeddingBag(BUCKETS, DIM, mode="mean")
        self.scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())

    def forward(self, x: Tensor, texts: Sequence[str]) -> Tensor:
        """Return how well pictures b 3 H W in [−1, 1] match texts, b t."""
        seen = F.normalize(self.pictures.logits(at_side(x)), dim=1)  # b d
        return self.scale.exp() * seen @ self.encode_texts(texts).T

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, t d."""
        numbers = [_buckets(text) for text in texts]
        starts = torch.tensor([0, *(len(n) for n in numbers)]).cumsum(0)[:-1]
        flat = torch.tensor([n for one in numbers for n in one])
        place = self.words.weight.device
        return F.normalize(self.words(flat.to(place), starts.to(place)), dim=1)


def _bag(text: str) -> tuple[int, ...]:
    """Return what texts that the model can't tell from one another have in common."""
    return tuple(sorted(_buckets(text)))


def _buckets(text: str) -> list[int]:
    """Number the words of a text; a text without words is one word."""
    words = re.findall(r"\w+", text.lower()) or [""]
    return [int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "little") % BUCKETS for word in words]


def kept_contrastive(folder: Folder, told: Small) -> ContrastiveModel:
    """Read the model of a training split; where there is none, train it and keep it."""
    file = told.file("contrastive", folder)
    if not file.is_file():
        model = train_contrastive(folder, told.seed, told.steps, told.device, told.report)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}")
        save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, unfinished)
        unfinished.replace(file)
    model = ContrastiveModel()
    model.load_state_dict(load_file(file))
    return model.to(told.device).eval().requires_grad_(False)


def train_contrastive(folder: Folder, seed: int, steps: int, device: torch.device, report: Report) -> ContrastiveModel:
    """Train on pictures and captions of a folder; of several captions one is drawn each time."""
    data = small_data(folder)

    @cache  # those of BATCH · steps samples at most, 12 KiB each
    def picture(index: int) -> Tensor:
        return torch.from_numpy(draw(folder, index, data, generator(seed, "fixed", index)).pixels)  # h w c, uint8

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ContrastiveModel().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    for step in range(steps):
        rng = generator(seed, "contrast", step)
        chosen = [int(i) for i in rng.choice(len(folder.items), min(BATCH, len(folder.items)), replace=False)]
        pictures = centred(rearrange([picture(i) for i in chosen], "b h w c -> b c h w"))
        texts = [str(rng.choice(folder.items[i].captions)) for i in chosen]
        optimizer.zero_grad(set_to_none=True)
        contrast(model(pictures.to(device), texts), texts).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(Progress(step + 1, steps, {}, "prompt retrieval"))
    return model


def contrast(logits: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the symmetric cross-entropy of matches b b; pictures of equal texts match each other's."""
    same = torch.tensor([[a == b for b in texts] for a in texts], device=logits.device).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def retrieval(model: ContrastiveModel, pictures: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Return the share of pictures b whose own text, of b of which some may be equal, matches best, or among the best.

    Texts of the same words are one, since the model reads them as one. Chance is one of the different texts.
    """
    bags = [_bag(text) for text in texts]
    different = dict(zip(bags, texts, strict=True))
    numbers = {bag: number for number, bag in enumerate(different)}
    place = model.scale.device
    matches = torch.cat(
        [model(floats(part).to(place), [*different.values()]).cpu() for part in torch.split(pictures, BATCH)]
    )
    own = matches.gather(1, torch.tensor([[numbers[bag]] for bag in bags]))
    better = (matches > own).sum(dim=1)
    return {
        "prompt retrieval, first": float((better == 0).float().mean()),
        f"prompt retrieval, first {TOP}": float((better < TOP).float().mean()),
        "prompt retrieval, first, by chance": 1 / len(different),
    }


def contrastive_name(folder: Folder, steps: int) -> str:
    """Return what figures of the model are marked with."""
    return f"contrastive model of {folder.path.name}'s training split ({steps} steps), at {SIDE} px"
