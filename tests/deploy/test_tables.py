"""The tables that a newcomer adds a row to: one more storage, spelling, operator and lowering, each by a row alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest
from onnx_files import answers, assert_same, constants, evaluated, onnx_file, ops, planted, product, sparse

import kronfx as kx
from kronfx.deploy.find.forms import FORMS
from kronfx.deploy.find.layers import Layer
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings import SPELLINGS
from kronfx.deploy.find.spellings.operand import number
from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.lowerings import LOWERINGS, Rule
from kronfx.deploy.lower.operators import RULES
from kronfx.deploy.lower.operators.elementwise import elementwise
from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import is_constant
from kronfx.deploy.storage import STORAGES, Survivors
from kronfx.records import Lowering

FLOAT32 = 1e-5  # a hundred products of numbers near 1


def hold(path: Path, x: np.ndarray, wanted: np.ndarray) -> None:
    for y in (answers(path, x=x)[0], evaluated(path, x=x)[0]):
        assert_same(y, wanted, FLOAT32)


def rows_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, n)).astype(np.float32)


@dataclass(frozen=True)
class Filled:
    """A weight of one value, stored as that value."""

    value: np.ndarray
    dims: tuple[int, int]

    @property
    def bytes(self) -> int:
        return int(self.value.nbytes)

    @property
    def T(self) -> Filled:
        return Filled(self.value, self.dims[::-1])

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        return build.op("Expand", build.constant(f"{site}/value", self.value), build.integers(*self.dims))


def filled(alive: Survivors, _: object) -> Filled | None:
    values = np.unique(alive.blocks)
    whole = alive.zero_blocks == 0 and len(values) == 1
    return Filled(values[0], alive.dims) if whole else None


def test_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORAGES, "filled", filled)
    W = np.full((48, 96), 0.25, np.float32)
    src = product(tmp_path / "m.onnx", W)
    dst, report = sparse(src, "dense")
    assert (report.layers[0].bytes, constants(dst)) == (4, 1)
    x = rows_of(96)
    hold(dst, x, x.astype(float) @ W.T)


def einsum(node: ir.Node) -> Linear | str | None:
    x, weight = node.inputs
    if x is None or weight is None or not is_constant(weight):
        return None
    if node.attributes.get_string("equation") != "bn,mn->bm":
        return "contracts other axes"
    return Linear(node=node, x=x, y=node.outputs[0], weight=weight, transposed=False)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_a_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowering: str) -> None:
    monkeypatch.delitem(FORMS, "Einsum")
    monkeypatch.setitem(SPELLINGS, "Einsum", einsum)
    W = planted(64, 96, (16, 16))
    nodes = 'h = Einsum<equation="bn,mn->bm">(x, w)', 'y = Einsum<equation="bm,mn->bn">(h, w)'
    src = onnx_file(tmp_path / "m.onnx", "float[b, 96] x => float[b, 96] y", *nodes, w=W)
    dst, report = sparse(src, lowering)
    assert [layer.lowering for layer in report.layers] == [lowering]
    x = rows_of(96)
    hold(dst, x, x.astype(float) @ W.T @ W)


def without_transposes(build: Builder, node: ir.Node) -> ir.Value | str | None:
    x, weight, bias = node.inputs
    if x is None or weight is None or not is_constant(weight):
        return None
    if number(node, "transB", 0) != 1:
        return "is not turned"
    product = build.op("MatMul", x, build.op("Transpose", weight, perm=[1, 0]))
    return build.op("Add", product, bias)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_a_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowering: str) -> None:
    monkeypatch.setitem(FORMS, "Gemm", without_transposes)
    W, c = planted(64, 96, (16, 16)), np.linspace(-1, 1, 64, dtype=np.float32)
    signature = "float[b, 96] x => float[b, 64] y"
    src = onnx_file(tmp_path / "m.onnx", signature, "y = Gemm<transB = 1>(x, w, c)", w=W, c=c)
    dst, report = sparse(src, lowering)
    assert [layer.lowering for layer in report.layers] == [lowering]
    assert "Gemm" not in ops(dst)
    x = rows_of(96)
    hold(dst, x, x.astype(float) @ W.T + c)


def test_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    W = planted(64, 64, (16, 16))
    nodes = "h = MatMul(x, w)", "s = Sin(h)", "y = MatMul(s, w)"
    src = onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 64] y", *nodes, w=W.T)
    x = rows_of(64)
    wanted = np.sin(x.astype(float) @ W.T) @ W.T
    counts = []
    for _ in range(2):
        dst, _ = sparse(src)
        hold(dst, x, wanted)
        counts.append(ops(dst).count("Transpose"))
        monkeypatch.setitem(RULES, "Sin", elementwise)
    assert counts == [4, 2]  # without the row, Sin's input and output are transposed as well


def test_the_lowerings_have_the_names_and_the_documentation_has_the_lowerings() -> None:
    assert set(get_args(Lowering)) == set(LOWERINGS)
    for verb in (kx.export_onnx, kx.sparsify_onnx):
        assert {name for name in LOWERINGS if f'``"{name}"``' not in (inspect.getdoc(verb) or "")} == set()


def from_the_left(layouts: Layouts, layers: Sequence[Layer], x: Feature) -> list[Feature]:
    x, build = layouts.make_ordered(x), layouts.build
    products = ((build.constant(f"{layer.name}/left", layer.linear.W), layer) for layer in layers)
    return [Feature(build.op("MatMul", W, x.value), x.rank, layer.shape.m) for W, layer in products]


def test_a_lowering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: Any = LOWERINGS  # the names of this table's type are those that are shipped
    row = Rule(lambda layer: "too large" if layer.shape.m > 64 else None, lambda _: 0, lambda *_: 0.0, from_the_left)
    monkeypatch.setitem(names, "left", row)
    W, V = planted(64, 96, (16, 16)), planted(128, 64, (16, 16))
    nodes = "h = MatMul(x, w)", "y = MatMul(h, v)"
    src = onnx_file(tmp_path / "m.onnx", "float[b, 96] x => float[b, 128] y", *nodes, w=W.T, v=V.T)
    dst, report = sparse(src, "auto", optimize_for="size")
    first, second = report.layers
    assert first.lowering == "left"
    assert second.why.endswith("left refused: too large")
    x = rows_of(96)
    hold(dst, x, x.astype(float) @ W.T @ V.T)
