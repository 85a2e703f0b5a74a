"""Whatever people call their modules and parameters, the file has it, and calls it so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import folded
from onnx_files import assert_same, export, run
from torch import Tensor, nn

import kronfx as kx
from kronfx.deploy.speakable import speakable

SAME = ['a"b', "a\\b", "a_b", "a_b_"]  # that become the same where what cannot be said is replaced
WORDS = ["class", "a'b", "a b", "a/b", "ä", "[0]", "%s", "-", "\n", "\u2028", '"""', "self", "µ"]
# Torch takes no dots, nothing empty, and nothing that the module has already.
NAMES = st.text(min_size=1, max_size=6).filter(lambda name: "." not in name and name not in dir(nn.ModuleDict()))


class Called(nn.Module):
    """Linear maps with zero blocks in a dict, and a parameter each, looked up by name."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: folded(16, 16, (4, 4), 0.5, seed=i) for i, name in enumerate(names)})
        self.gains = nn.ParameterDict({name: nn.Parameter(torch.tensor(1.0 + i)) for i, name in enumerate(names)})
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = x + self.gains[name] * self.maps[name](x).tanh() if name in self.maps else x
        return x


@settings(max_examples=8)
@given(st.lists(NAMES, min_size=3, max_size=6, unique=True))
@example(SAME)
@example(WORDS)
def test_any_name_is_exported(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    model, path = Called(names).eval(), tmp_path_factory.mktemp("names") / "m.onnx"
    x = torch.randn(3, 16)
    report = export(model, path, x, "blocks", batch_sizes=(2,))
    wanted = [f"maps.{name}" for name in names]
    assert [layer.site for layer in report.layers] == wanted
    assert [layer.site for layer in kx.inspect(path).layers] == wanted
    assert_same(run(path, x)[0], model(x))
    nodes = [node.name for node in onnx.load(path).graph.node]
    assert len(nodes) == len(set(nodes))
    assert list(model.maps) == names
    assert all(type(module._modules) is type(nn.Module()._modules) for module in model.modules())
    text = report.to_html(path.with_suffix(".html")).read_text()
    assert "<html" in text


@given(st.lists(NAMES, min_size=1, unique=True))
@example(SAME + WORDS)
def test_all_is_found_by_its_old_name_and_listed_under_one_that_can_be_said(names: list[str]) -> None:
    held = nn.ModuleDict({name: nn.Identity() for name in names})
    before = dict(held.items())
    with speakable(held):
        listed = dict(held.named_children())
        assert list(listed.values()) == list(before.values())
        assert all(held[name] is child and name in held for name, child in before.items())
        for name, child in listed.items():  # as the exporter writes it
            said = f"held.{name}" if name.isidentifier() else f'getattr(held, "{name}")'
            assert eval(said, {"held": held}) is child
    assert dict(held.items()) == before


def test_what_the_exporter_cannot_do_is_not_laid_to_the_batch(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        """torch.export takes it, ONNX has no word for it."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(kx.KronfxError, match=r"torch.onnx.export failed") as caught:
        kx.export_onnx(Sorted(), tmp_path / "m.onnx", torch.randn(2, 4))
    assert "batch" not in str(caught.value)
    assert np.array_equal(list(tmp_path.iterdir()), [])
