"""A weight that is needed in several forms is stored once, as blocks too: tied embeddings, autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_files import answers, assert_same, constants, evaluated, onnx_file, ops, planted, sparse
from onnx_spellings import hold, many
from transformers import GPT2Config, GPT2LMHeadModel

import kronfx as kx
from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.storage import Shared, survivors
from kronfx.records import KroneckerShape

V, N = 256, 64
# How a graph may spell a head that is tied to an embedding ``w [V, n]``.
HEADS = {
    "Gemm": "y = Gemm<transB = 1>(h, w)",
    "Transpose": "t = Transpose<perm = [1, 0]>(w) y = MatMul(h, t)",
    "another constant": "y = MatMul(h, v)",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@settings(many, max_examples=8, deadline=None)
@given(block=st.sampled_from([(4, 4), (8, 8), (16, 8), (32, 32), (64, 16)]), zero=st.sampled_from([0.3, 0.8, 0.95]))
def test_a_tied_embedding(tmp_path: Path, head: str, kind: Any, block: tuple[int, int], zero: float) -> None:
    """Exactly what is looked up, and a head of blocks; what is stored is what survives, and a table or two."""
    W = planted(V, N, block, zero, dtype=kind)
    name = {np.float32: "float", np.float16: "float16", np.float64: "double"}[kind]
    nodes = f"e = Gather(w, ids) h = Tanh(e) {HEADS[head]}"
    rows = "b" if head == "Gemm" else "b, s"
    signature = f"int64[{rows}] ids => {name}[{rows}, {N}] e, {name}[{rows}, {V}] y"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, w=W, v=W.T)
    dst, report = sparse(src, block=block)
    assert "blocks" in {layer.lowering for layer in report.layers}
    assert "Gather" in ops(dst)
    spare = 2 * block[0] * block[1] + 8 * V // block[0]
    assert constants(dst) <= np.count_nonzero(W) + spare
    ids = np.random.default_rng(0).integers(0, V, (2, 5)[: len(rows.split(","))])
    embedded = W[ids]
    wanted = np.tanh(embedded.astype(float)) @ W.astype(float).T
    for e, y in (answers(dst, ids=ids), evaluated(dst, ids=ids)):
        np.testing.assert_array_equal(e, embedded)
        assert_same(y, wanted, 1e-2 if kind is np.float16 else 1e-5)
    assert sum("stored once" in layer.why for layer in report.layers) == 1


@pytest.mark.parametrize("size", [(96, 64), (64, 64)])
def test_both_sides_of_an_autoencoder(tmp_path: Path, size: tuple[int, int]) -> None:
    m, n = size
    W, signature = planted(m, n, (8, 4), 0.6), f"float[b, {n}] x => float[b, {n}] y"
    nodes = "h = MatMul(x, w) r = Relu(h) y = Gemm<transB = 1>(r, w)"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, w=W.T)
    dst, report = sparse(src, block=(8, 4) if m == n else None)
    if m != n:
        assert [layer.lowering for layer in report.layers] == ["blocks", "blocks"]
        assert constants(dst) <= np.count_nonzero(W) + 64
    x = np.random.default_rng(1).standard_normal((5, n)).astype("f")
    hold(src, dst, x, np.maximum(x.astype(float) @ W.T, 0) @ W)


@pytest.mark.parametrize("transposed", [False, True])
@settings(max_examples=40, deadline=None)
@given(
    shape=st.builds(KroneckerShape, *[st.integers(1, 5)] * 4),
    rows=st.lists(st.integers(-2, 4), min_size=1, max_size=6),
    more=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_any_rows_of_blocks(transposed: bool, shape: KroneckerShape, rows: list[int], more: int, seed: int) -> None:
    """As numpy takes them out of ``W``: the survivors of each row side by side, then zeros."""
    rng = np.random.default_rng(seed)
    mask = rng.random((shape.m1, shape.n1)) < 0.5
    W = (rng.standard_normal((shape.m, shape.n)) * np.kron(mask, np.ones(shape.block))).astype("f")
    rows = [row for row in rows if row < shape.m1] or [0]
    depth = max([int(mask[row].sum()) for row in rows if row >= 0], default=0) + more or 1
    wanted = np.zeros((len(rows), shape.m2, depth, shape.n2), "f")
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2)
    for i, row in enumerate(rows):
        own = grid[row][:, mask[row]] if row >= 0 else grid[0][:, :0]
        wanted[i, :, : own.shape[1]] = own
    alive = survivors(W.T, shape.T) if transposed else survivors(W, shape)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g")
    y = Shared("w", alive, transposed).rows(Builder(graph), rows, depth)
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape((len(rows), shape.m2, depth * shape.n2))
    graph.outputs.append(y)
    found = ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=10))).run(None, {})[0]
    np.testing.assert_array_equal(found, wanted.reshape(found.shape))


def test_a_tied_transformer_as_torch_exports_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=16, n_embd=N, n_layer=2, n_head=4, use_cache=False)
    model = GPT2LMHeadModel(config).eval()
    W = model.transformer.wte.weight
    W.data.copy_(torch.from_numpy(planted(V, N, (16, 16), 0.8)))

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids).logits

    ids = torch.randint(0, V, (2, 12))
    src, dst = tmp_path / "m.onnx", tmp_path / "s.onnx"
    torch.onnx.export(Logits().eval(), (ids,), src)
    dense = kx.sparsify_onnx(src, dst, lowering="dense", tune=False)
    once = dense.bytes
    report = kx.sparsify_onnx(src, dst, lowering="blocks", tune=False)
    assert [(layer.m, layer.n, layer.lowering) for layer in report.layers if layer.zero_blocks] == [(V, N, "blocks")]
    assert report.bytes <= once + 10_000  # nodes; the survivors alone take 13 kB
    assert_same(answers(dst, input_ids=ids.numpy())[0], model(ids).logits)
