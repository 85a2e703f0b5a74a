"""A weight that many layers share is in the file once, however each of them comes by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import assert_same_file, constants, onnx_file, planted, run, sparse
from torch import nn
from transformers import AlbertConfig, AlbertModel

N = 64
CARRIERS = {  # what stands between the constant and a product with W^T, and what the constant is
    "Identity(w)": lambda W: W.T,
    "Transpose<perm = [1, 0]>(w)": lambda W: W,
    "Cast<to = 1>(w)": lambda W: W.T.astype(np.float16),
    "Reshape(w, dims)": lambda W: W.T.reshape(N // 2, 2 * N),
    "Squeeze(w, axis)": lambda W: W.T[None],
    "Mul(w, two)": lambda W: W.T / 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@given(
    carriers=st.lists(st.sampled_from(sorted(CARRIERS)), min_size=1, max_size=2, unique=True),
    readers=st.integers(2, 5),
    zero=st.sampled_from([0.0, 0.3, 0.85]),
    lowering=st.sampled_from(["dense", "blocks"]),
)
def test_every_reader_with_a_carrier_of_its_own(
    folder: Path, carriers: list[str], readers: int, zero: float, lowering: str
) -> None:
    """Two weights at most, each read through its kind of carrier, beside one whose zero blocks are worth a new file."""
    nodes, held, value = [], {"dims": np.array([N, N]), "axis": np.array([0]), "two": np.float32(2)}, "x"
    for i, carrier in enumerate(carriers):
        held[f"w{i}"] = CARRIERS[carrier](planted(N, N, (8, 8), zero, seed=i))
        for j in range(readers):
            carried = carrier.replace("(w", f"(w{i}")
            nodes += [f"c{i}_{j} = {carried}", f"h{i}_{j} = MatMul({value}, c{i}_{j})", f"r{i}_{j} = Tanh(h{i}_{j})"]
            value = f"r{i}_{j}"
    held["last"] = planted(N, N, (8, 8), 0.85, seed=9).T
    src = onnx_file(
        folder / "m.onnx", f"float[b, {N}] x => float[b, {N}] y", *nodes, f"y = MatMul({value}, last)", **held
    )
    dst, _ = sparse(src, lowering)
    assert_same_file(src, dst)
    weights = [array for name, array in held.items() if name[0] in "wl"]
    survivors = sum(int(np.count_nonzero(W)) for W in weights)
    assert constants(dst) <= 1.1 * survivors + 64 * (len(weights) + 1)  # rows are filled up; blocks of zeros
    assert dst.stat().st_size <= src.stat().st_size + 4000


class Albert(nn.Module):
    """Six layers that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.albert = AlbertModel(
            AlbertConfig(
                vocab_size=50,
                embedding_size=32,
                hidden_size=128,
                num_hidden_layers=6,
                num_attention_heads=4,
                intermediate_size=256,
                max_position_embeddings=32,
                attn_implementation="eager",
            )
        )
        for seed, layer in enumerate(module for module in self.modules() if isinstance(module, nn.Linear)):
            m, n = layer.weight.shape
            layer.weight.data = torch.tensor(planted(m, n, (16, 16), 0.85, seed))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.albert(input_ids=ids)[0]
        return hidden


@pytest.mark.parametrize(("lowering", "dynamo"), [("dense", True), ("blocks", True), ("blocks", False)])
def test_an_albert(tmp_path: Path, lowering: str, dynamo: bool) -> None:
    """torch's exporter has one weight with many readers, its older one a copy of it for each."""
    model, path = Albert().eval(), tmp_path / "m.onnx"
    ids = torch.randint(0, 50, (2, 12))
    torch.onnx.export(model, (ids,), path, dynamo=dynamo, external_data=False, verbose=False)
    dst, report = sparse(path, lowering)
    survivors = sum(int(tensor.count_nonzero()) for tensor in model.state_dict().values())
    assert constants(dst) <= 1.1 * survivors
    assert len({layer.site for layer in report.layers}) == len(report.layers) <= 9
    np.testing.assert_allclose(run(dst, ids)[0], model(ids).detach(), rtol=0, atol=1e-5)
