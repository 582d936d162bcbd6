"""Every committed reference case passes, and the command says so in its last line and exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoints.layouts.compvis.single_file import read_single
from models.checkpoints.load import load
from models.tokenizers.prompts import load_tokenizer, load_vocabulary
from tests.parity.case import Case
from tests.parity.run import CASES, compare, find_cases, main

ALL = find_cases([CASES])
PIPELINES = [case for case in ALL if {"input_ids", "input_ids_2"} & case.inputs.keys() and "prompts" in case.spec]
VOCABULARIES = [case for case in ALL if "vocab" in case.spec["files"]]


def _name(case: Case) -> str:
    return case.folder.name


@pytest.mark.parametrize("case", ALL, ids=_name)
def test_every_output_agrees(case: Case) -> None:
    failed = [str(result) for result in compare(case) if not result.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("case", PIPELINES, ids=_name)
def test_prompts_become_the_expected_tokens(case: Case) -> None:
    names = [name for name in ("input_ids", "input_ids_2") if name in case.inputs]
    for tokenizer, name in zip(load(case.weights).tokenizers, names, strict=True):
        torch.testing.assert_close(tokenizer(case.spec["prompts"])[0], case.inputs[name])


@pytest.mark.parametrize("case", [c for c in PIPELINES if (c.weights / "tokenizer/merges.txt").is_file()], ids=_name)
def test_old_tokenizer_files_give_the_same_tokens(case: Case, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(case.weights / "tokenizer" / name, tmp_path)
    tokens = load_tokenizer(tmp_path, 77)(case.spec["prompts"])[0]
    torch.testing.assert_close(tokens, case.inputs["input_ids"])


@pytest.mark.parametrize("case", VOCABULARIES, ids=_name)
def test_prompts_become_the_expected_tokens_by_a_vocabulary_beside_the_file(case: Case) -> None:
    expected = case.inputs["tokens"]
    tokenizer = load_vocabulary(case.folder / "vocab.txt", expected.shape[1])
    torch.testing.assert_close(tokenizer(case.spec["prompts"])[0], expected)


def test_the_command_counts_and_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = CASES / "compvis" / "spatial_rescaler"
    assert main([str(source)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"
    broken = shutil.copytree(source, tmp_path / "case")
    (broken / "model.safetensors").write_bytes(b"damaged")
    assert main([str(broken)]) == 1
    assert "0 passed, 1 failed" in capsys.readouterr().out


def test_averaged_weights_are_those_of_the_dotless_names() -> None:
    case = next(case for case in ALL if any("without_ema" in output for output in case.expected))
    assert any(key.startswith("model_ema.") for key in read_single(case.weights).state)
