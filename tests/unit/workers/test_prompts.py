"""What prompts become: bytes of plain ones as ever, weights and chunks beside them, each kept under its own key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import CheckpointError
from models.checkpoints.load import load
from models.networks.conditioning import Told
from models.pipeline.chunks import Chunk, encode_chunks
from models.tokenizers.prompts import shipped_clip
from models.tokenizers.vocabularies import CLIP_END
from tests.embeddings import applied, library_of, write_embeddings
from tests.engines import tiny_models
from tests.loras import small_sd
from tests.parity.run import CASES
from workers.prompts import PromptCache, Reading, encode

LONG = "a photo of a small red cat, " * 12


def test_a_weighted_prompt_without_weights_is_the_plain_one() -> None:
    model = small_sd()
    plain = encode(model, "a red cat", Reading())
    assert torch.equal(encode(model, "a red cat", Reading("weighted")).context, plain.context)
    assert torch.equal(encode(model, "a red cat", Reading(clip_skip=1)).context, plain.context)


def test_a_plain_prompt_is_cut_and_a_weighted_one_goes_on() -> None:
    model = small_sd()
    plain, cut = encode(model, LONG, Reading()), encode(model, LONG, Reading(clip_skip=1))
    assert torch.equal(plain.context, cut.context)
    assert encode(model, LONG, Reading("weighted")).context.shape[1] == 2 * 77
    assert encode(model, "a BREAK b BREAK c", Reading("weighted")).context.shape[1] == 3 * 77


def test_the_mean_is_where_it_was() -> None:
    model = small_sd()
    plain, heavy = (encode(model, text, Reading("weighted")).context for text in ("a red cat", "a (red:1.9) cat"))
    assert not torch.allclose(plain, heavy)
    torch.testing.assert_close(heavy.mean(), plain.mean())


def test_each_way_of_reading_is_kept_by_itself(tmp_path: Path) -> None:
    write_embeddings(tmp_path)
    model, cache = small_sd(), PromptCache()
    library = library_of(tmp_path)
    made = [library.embeddings(model, applied(tmp_path, name)) for name in ("webui-style", "webui-tensors")]
    readings = [
        Reading(),
        Reading("weighted"),
        Reading(clip_skip=1),
        Reading(clip_skip=2),
        *(Reading(embeddings=embeddings) for embeddings in made),
    ]
    contexts = [cache.encoded(model, "(webui-style) webui-tensors", reading).context for reading in readings]
    assert len(cache.kept) == len(readings)
    assert sum(torch.equal(contexts[0], other) for other in contexts[1:]) == 1  # clip skip 1 is the model's own
    again = [cache.encoded(model, "(webui-style) webui-tensors", reading).context for reading in readings]
    assert all(one is other for one, other in zip(contexts, again, strict=True))


def test_long_contexts_are_kept_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cache = small_sd(), PromptCache()
    first = cache.encoded(model, "a")
    monkeypatch.setattr("workers.prompts.CONTEXTS_KEPT", 3 * first.context.nbytes)
    for prompt in ("b", "c", "d", "e"):
        cache.encoded(model, prompt)
    assert [prompt for _, prompt, _ in cache.kept] == ["c", "d", "e"]
    assert cache.held == 3 * first.context.nbytes
    long = "a BREAK b BREAK c BREAK d"
    cache.encoded(model, long, Reading("weighted"))  # more than is kept: alone
    assert [prompt for _, prompt, _ in cache.kept] == [long]


def test_the_padding_token_is_text_in_a_weighted_prompt() -> None:
    """SDXL's second tower pads with "!": its weighted prompts are cut as the first tower's are."""
    first, second = shipped_clip(77, CLIP_END), shipped_clip(77, "!")
    text = "wow!!! night!"
    assert second.bare_pieces(text) == first.bare_pieces(text) == first.pieces(text)
    assert len(second.pieces(text)) > len(first.pieces(text))


def test_a_tower_that_needs_fewer_chunks_reads_nothing_in_the_others() -> None:
    model = load(CASES / "sdxl" / "sdxl_base" / "pipeline")
    told = [Told(None, None)] * 2
    one, two = [Chunk((1, 2), (1.0, 1.0))], [Chunk((1,), (1.0,)), Chunk((2,), (1.0,))]
    encoded = encode_chunks(model, [one, two], told)
    assert torch.equal(encoded.context, encode_chunks(model, [[*one, Chunk((), ())], two], told).context)
    assert encoded.context.shape[1] == 2 * 77


def test_only_clip_reads_so() -> None:
    with pytest.raises(CheckpointError, match="no text encoder of CLIP"):
        encode(tiny_models()["paint"], "a", Reading("weighted"))
