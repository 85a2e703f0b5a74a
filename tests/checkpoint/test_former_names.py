"""A checkpoint of an earlier release, which named the factors of owned weights otherwise, still loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kronfx as kx


class Head(nn.Linear):
    """Replaced as a whole once, adopted today."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.w = nn.Linear(16, 16), Head(16, 16), nn.Parameter(torch.randn(16, 16))
        self.attention = nn.MultiheadAttention(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.head(self.fc(x)), self.w) + self.attention(x, x, x)[0]


FORMER = {
    "attention.in_proj_weight.": "attention.kronecker.in_proj_weight.",
    "attention.out_proj.weight.": "attention.out_proj.",
    "head.weight.": "head.",
    "w.": "kronecker.w.",
}


def former(name: str) -> str:
    """The name that an earlier release gave to a tensor."""
    for today, then in FORMER.items():
        if name.startswith(today):
            return then + name.removeprefix(today)
    return name


@pytest.mark.parametrize("block", [None, [(2, 2), (4, 4)]])
def test_an_earlier_checkpoint_loads(tmp_path: Path, block: list[tuple[int, int]] | None) -> None:
    torch.manual_seed(0)
    model, x = kx.factorize(Model().eval(), rank=1, block=block), torch.randn(3, 16)
    folder = kx.save(model, tmp_path / "saved")
    tensors = load_file(folder / "model.safetensors")
    renamed = {former(name): value for name, value in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == (12 if block is None else 24)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    plan = json.loads((folder / "plan.json").read_text())
    for choice in plan["choices"]:
        choice["site"]["formed"] = False
    (folder / "plan.json").write_text(json.dumps(plan))
    loaded = kx.load(Model().eval(), folder)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(x), model(x))
