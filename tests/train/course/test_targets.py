"""A target is met on real models: the share counted on the folded weights is within one percentage point of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from models import lenet5
from torch import Tensor, nn

import kronfx as kx

STEPS = 120
Task = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def digits() -> Task:
    """LeNet-5 on noise, in the blocks of the paper's first row."""
    torch.manual_seed(0)
    images, labels = torch.randn(16, 1, 28, 28), torch.randint(10, (16,))
    blocks = {"fc1": (8, 16), "fc2": (4, 8), "fc3": (2, 4)}
    model = kx.factorize(lenet5(), rank=2, block=blocks, include="fc*")
    return model, lambda model: F.cross_entropy(model(images), labels)


def words() -> Task:
    """A BERT on noise."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=96, max_position_embeddings=32, **sizes))
    tokens = torch.randint(96, (8, 7))
    model = kx.factorize(model, rank=2, block=(4, 4))
    return model, lambda model: model(input_ids=tokens, labels=tokens).loss


@pytest.mark.parametrize("task", [digits, words])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.9])
def test_the_final_share_is_within_a_point_of_the_target(task: Callable[[], Task], target: float) -> None:
    model, loss = task()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsity = kx.train.BlockSparsity(model, strength=10.0, target=target, optimizer=optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        sparsity.step()
        if step == STEPS * 3 // 4:
            sparsity.freeze()
    report = kx.inspect(kx.fold(model.eval()))
    assert report.zero_blocks / report.blocks == pytest.approx(target, abs=0.01)
    assert sparsity.sparsity() == report.zero_blocks / report.blocks
