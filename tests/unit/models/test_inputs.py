"""Rows become batches by the names of their tensors."""

from __future__ import annotations

import pytest
import torch

from models.inputs import Inputs


def test_rows_are_stacked_by_name() -> None:
    rows = [Inputs(torch.full((3, 2), float(i)), labels=torch.tensor(i)) for i in range(2)]
    batch = Inputs.stack(rows)
    assert batch.context is not None
    assert batch.labels is not None
    assert batch.concat is None
    assert batch.context.shape == (2, 3, 2)
    assert batch.labels.tolist() == [0, 1]


def test_batches_are_joined_by_name() -> None:
    both = Inputs.cat([Inputs(concat=torch.zeros(1, 3, 4, 4)), Inputs(concat=torch.ones(2, 3, 4, 4))])
    assert both.concat is not None
    assert both.concat[:, 0, 0, 0].tolist() == [0, 1, 1]


def test_rows_that_lack_a_tensor_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['context'\] and \['context', 'labels'\]"):
        Inputs.stack([Inputs(torch.zeros(1, 2)), Inputs(torch.zeros(1, 2), labels=torch.tensor(1))])


def test_only_tensors_of_floating_point_change_their_dtype() -> None:
    placed = Inputs(torch.zeros(1, 2), labels=torch.tensor(999)).to(torch.device("cpu"), torch.bfloat16)
    assert placed.context is not None
    assert placed.labels is not None
    assert (placed.context.dtype, placed.labels.dtype, placed.concat) == (torch.bfloat16, torch.int64, None)
