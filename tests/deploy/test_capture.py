"""What torch captures: several inputs, nested outputs, free axes; and the user's model stays as it was."""

from __future__ import annotations

import copy
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import factored, folded
from onnx_files import assert_same, export, run
from torch import Tensor, nn


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.head = folded(64, 32, (8, 8))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


def test_token_ids(tmp_path: Path) -> None:
    model, path = Tokens(), tmp_path / "model.onnx"
    report = export(model, path, torch.randint(0, 50, (1, 9)))
    assert report.batch_sizes == (1, 7, 32)
    ids = torch.randint(0, 50, (256, 9))
    assert_same(run(path, ids)[0], model(ids))


Pair = namedtuple("Pair", "total parts")


class Two(nn.Module):
    """Two inputs of the batch, one table that is not; a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = folded(48, 32, (4, 8), seed=1), folded(48, 32, (4, 8), seed=2)

    def forward(self, x: Tensor, y: Tensor, table: Tensor) -> dict[str, Any]:
        first, second = self.a(x), self.b(y)
        return {"pair": Pair(first + second, [first, second.argmax(-1)]), "table": table * 2}


@pytest.mark.parametrize("spelling", ["tuple", "list", "dict", "shuffled dict"])
def test_several_inputs_and_nested_outputs(tmp_path: Path, spelling: str) -> None:
    model, path = Two(), tmp_path / "model.onnx"
    x, y, table = torch.randn(2, 32), torch.randn(2, 32), torch.randn(5, 3)
    examples = {
        "tuple": (x, y, table),
        "list": [x, y, table],
        "dict": {"x": x, "y": y, "table": table},
        "shuffled dict": {"table": table, "y": y, "x": x},
    }
    report = export(model, path, examples[spelling], batch_sizes=(1, 3, 3))
    # dim 0 of the first tensor given is the batch: the table's own, when it comes first
    assert report.batch_sizes == (1, 3)
    x, y = torch.randn(7, 32), torch.randn(7, 32)
    total, first, best, doubled = run(path, x, y, table)
    assert_same(total, model.a(x) + model.b(y))
    assert_same(first, model.a(x))
    np.testing.assert_array_equal(best, model.b(y).argmax(-1).numpy())
    assert_same(doubled, table * 2)


class Noisy(nn.Module):
    """Dropout, a batch norm that counts, and a child that is kept in eval mode on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = factored((6, 4, 8, 16), 2, "a_first")
        self.norm = nn.BatchNorm1d(48)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.drop(self.norm(self.fc(x))))


def test_the_users_model_stays_as_it_was(tmp_path: Path) -> None:
    model = Noisy().train()
    model.frozen.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    kinds = [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "model.onnx", torch.randn(2, 64))
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert flags["drop"] is True
    assert flags["frozen"] is False
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


class AsksItsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = factored((6, 6, 8, 8), 2, "b_first")

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.to(self.fc.weight.dtype)) / self.fc.in_features + self.fc.out_features
        return y - self.fc.bias + self.fc.weight.mean()


def test_a_lowered_layer_answers_what_other_code_asks(tmp_path: Path) -> None:
    model, path = AsksItsWeight(), tmp_path / "model.onnx"
    export(model, path, torch.randn(2, 48))
    x = torch.randn(4, 48)
    assert_same(run(path, x)[0], model(x))


def test_torchs_own_encoder(tmp_path: Path) -> None:
    """Its fast path asks every projection for its bias, its weight and their types before it runs any of them."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    layer.self_attn.out_proj = factored((4, 4, 8, 8), 2, "a_first")
    with torch.no_grad():
        layer.self_attn.out_proj.S.fill_diagonal_(1).triu_().tril_()
    layer.linear1 = factored((8, 4, 8, 8), 2, "b_first")
    layer.linear2 = folded(32, 64, (4, 4))
    model, path = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(1, 6, 32), "factors")
    lowerings = {entry.site.split(".")[-1]: entry.lowering for entry in report.layers}
    assert (lowerings["linear1"], lowerings["linear2"]) == ("factors", "dense")
    assert all(entry.bytes < entry.dense_bytes for entry in report.layers if entry.zero_blocks)
    x = torch.randn(3, 6, 32)
    assert_same(run(path, x)[0], model(x))


def test_dynamic_shapes_are_handed_through(tmp_path: Path) -> None:
    model, path = nn.Sequential(folded(48, 32, (4, 8))), tmp_path / "model.onnx"
    fixed = export(model, path, torch.randn(1, 32), dynamic_shapes={})
    assert fixed.batch_sizes == (1,)
    assert [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [1, 32]
    export(model, path, torch.randn(2, 5, 32), dynamic_shapes=({0: "rows", 1: "time"},))
    assert [d.dim_param for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == ["rows", "time", ""]
    x = torch.randn(1, 11, 32)
    assert_same(run(path, x)[0], model(x))
