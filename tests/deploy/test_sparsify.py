"""``sparsify_onnx`` from file to file: models that kronfx never saw, and its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import (
    answers,
    assert_same,
    constants,
    evaluated,
    onnx_file,
    ops,
    planted,
    run,
    runtime_ops,
    sparse,
)
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

import kronfx as kx
from kronfx import deploy
from kronfx.deploy import pipeline
from kronfx.deploy.write import save

Options = dict[str, Any]
QUICK: Options = {"tune": False}


def zeroed(model: nn.Module, block: tuple[int, int], share: float) -> nn.Module:
    """Plain torch: that share of the blocks of every linear layer is set to zero."""
    with torch.no_grad():
        for i, layer in enumerate(layer for layer in model.modules() if isinstance(layer, nn.Linear)):
            m, n = layer.weight.shape
            if m % block[0] == 0 and n % block[1] == 0:
                layer.weight *= torch.from_numpy(planted(m, n, block, share, i) != 0)
    return model


class Encoder(nn.Module):
    """One layer of a transformer over token ids with a padding mask, as torch users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
        self.first, self.last = nn.LayerNorm(64), nn.LayerNorm(64)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = (layer(x).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2)) / 4
        scores = scores.masked_fill(attention_mask[:, None, None, :] == 0, -1e9)
        x = self.first(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        return self.last(x + self.down(nn.functional.gelu(self.up(x))))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: Any) -> tuple[nn.Module, Path]:
    """The model, and what plain ``torch.onnx.export`` makes of it with a free batch and a free sequence."""
    torch.manual_seed(0)
    model = zeroed(Encoder().eval(), (16, 16), 0.75)
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    example = (torch.randint(0, 40, (2, 6)), torch.ones(2, 6, dtype=torch.int64))
    axes = {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("sequence", min=2)}
    torch.onnx.export(model, example, path, dynamic_shapes=(axes, axes), dynamo=True, external_data=False)
    return model, path


def feeds(batch: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(batch))
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 + 1 :] = 0
    return {"ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("lowering", ["dense", "blocks", "auto"])
def test_a_model_that_kronfx_never_saw(encoder: tuple[nn.Module, Path], tmp_path: Path, lowering: str) -> None:
    model, src = encoder
    before = src.read_bytes()
    dst = tmp_path / "sparse.onnx"
    report = kx.sparsify_onnx(src, dst, lowering=lowering, **QUICK)
    assert src.read_bytes() == before
    assert report.batch_sizes == (1, 7, 32)
    assert report.max_error is not None
    assert report.max_error <= report.tolerance == 1e-4

    assert len(report.layers) == 6
    assert {(layer.block, layer.zero_blocks / layer.blocks) for layer in report.layers} == {((16, 16), 0.75)}
    if lowering != "auto":
        assert {layer.lowering for layer in report.layers} == {lowering}
    dense_part = sum(layer.dense_bytes - layer.bytes for layer in report.layers)
    assert report.bytes == dst.stat().st_size <= src.stat().st_size - dense_part + 25_000  # some 3 KB of nodes a layer

    inputs = [[d.dim_param for d in value.type.tensor_type.shape.dim] for value in onnx.load(dst).graph.input]
    assert inputs == [["batch", "sequence"]] * 2
    for batch, length in ((1, 6), (3, 1), (2, 17)):
        given = feeds(batch, length)
        arrays = {name: x.numpy() for name, x in given.items()}
        with torch.no_grad():
            wanted = model(**given)
        assert_same(answers(dst, **arrays)[0], wanted)
        assert_same(evaluated(dst, **arrays)[0], wanted)


def test_the_dense_lowering_runs_as_the_source_does(encoder: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, src = encoder
    dst, _ = sparse_of(src, tmp_path, "dense")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    left = [runtime_ops(path, folder) for path, folder in zip((src, dst), folders, strict=True)]
    assert sorted(left[0]) == sorted(left[1])


def sparse_of(src: Path, folder: Path, lowering: str, **options: Any) -> tuple[Path, Any]:
    dst = folder / f"{lowering}.onnx"
    return dst, kx.sparsify_onnx(src, dst, lowering=lowering, **{**QUICK, **options})


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_a_quantized_model(encoder: tuple[nn.Module, Path], tmp_path: Path, weights: QuantType) -> None:
    """8-bit sums are exact; activations round anew where a float operator in between sums in another order."""
    _, src = encoder
    quantized = tmp_path / "quantized.onnx"
    quantize_dynamic(src, quantized, weight_type=weights, op_types_to_quantize=["MatMul", "Gemm"])
    given = {name: x.numpy() for name, x in feeds(3, 8).items()}
    (wanted,) = answers(quantized, **given)
    for lowering in ("dense", "blocks"):
        dst, report = sparse_of(quantized, tmp_path, lowering)
        assert len(report.layers) == 6
        assert_same(answers(dst, **given)[0], wanted, 2e-2)
        stored = sum(layer.bytes for layer in report.layers)
        everything = sum(tensor.ByteSize() for tensor in onnx.load(dst).graph.initializer)
        assert stored <= everything  # what the report says of the weights is in the file
        if weights == QuantType.QInt8:
            assert {layer.lowering for layer in report.layers} == {lowering}
            assert report.bytes < quantized.stat().st_size - 0.6 * sum(layer.dense_bytes for layer in report.layers)
        else:
            assert report.bytes <= everything + (src.stat().st_size - constants(src) * 4) + 25_000


@pytest.mark.parametrize("again", ["dense", "blocks"])
@pytest.mark.parametrize("first", ["dense", "blocks"])
def test_a_file_of_our_own(encoder: tuple[nn.Module, Path], tmp_path: Path, first: str, again: str) -> None:
    model, src = encoder
    once, report = sparse_of(src, tmp_path, first)
    (tmp_path / "twice").mkdir()
    twice, second = sparse_of(once, tmp_path / "twice", again)
    given = feeds(2, 7)
    with torch.no_grad():
        assert_same(answers(twice, **{name: x.numpy() for name, x in given.items()})[0], model(**given))
    if first == again:
        assert second.bytes <= report.bytes + 200  # the record may name things anew


def test_the_same_path_twice(tmp_path: Path) -> None:
    path = simple(tmp_path)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    (wanted,), size = answers(path, x=x), path.stat().st_size
    report = kx.sparsify_onnx(path, path, lowering="blocks", **QUICK)
    assert report.bytes == path.stat().st_size < size
    assert_same(answers(path, x=x)[0], wanted, 1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    src, link = simple(tmp_path), tmp_path / "link.onnx"
    (tmp_path / "real").mkdir()
    link.symlink_to(tmp_path / "real" / "model.onnx")
    report = kx.sparsify_onnx(str(src), str(link), verify=False, **QUICK)
    assert link.is_symlink()
    assert (tmp_path / "real" / "model.onnx").stat().st_size == report.bytes


def simple(folder: Path, zero: float = 0.75, m: int = 48, n: int = 64, **types: int) -> Path:
    """``y = x W^T`` with 8x8 blocks."""
    W = planted(m, n, (8, 8), zero)
    return onnx_file(folder / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", n]}, {"y": ["b", m]}, {"w": W.T}, types)


def test_a_model_with_nothing_sparse(tmp_path: Path) -> None:
    src = simple(tmp_path, zero=0.0)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", rows=1)
    assert [(layer.lowering, layer.zero_blocks) for layer in report.layers] == [("dense", 0)]
    assert ops(tmp_path / "out.onnx") == ["MatMul"]
    assert report.timings.entries == ()  # nothing to choose, nothing to time
    assert report.bytes <= src.stat().st_size + 300


def test_a_model_with_no_weight_at_all(tmp_path: Path) -> None:
    src = onnx_file(tmp_path / "m.onnx", [("Relu", "x", "y")], {"x": ["b", 4]}, {"y": ["b", 4]}, {})
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", **QUICK)
    assert report.layers == ()
    assert "no linear layer" in str(report)
    assert ops(tmp_path / "out.onnx") == ["Relu"]


def test_a_model_without_inputs(tmp_path: Path) -> None:
    """Everything is constant: it folds to its answer."""
    W, x = planted(48, 64, (8, 8)), np.ones((3, 64), "f")
    src = onnx_file(tmp_path / "m.onnx", [("MatMul", "x w", "y")], {}, {"y": [3, 48]}, {"w": W.T, "x": x})
    kx.sparsify_onnx(src, tmp_path / "out.onnx", **QUICK)
    assert_same(answers(tmp_path / "out.onnx")[0], x.astype(float) @ W.T, 1e-5)
    random = [
        ("RandomNormal", "", "x", {"shape": [3, 64], "seed": 1.0}),
        ("Mul", "x zero", "z"),
        ("MatMul", "z w", "y"),
    ]
    src = onnx_file(tmp_path / "r.onnx", random, {}, {"y": [3, 48]}, {"w": W.T, "zero": np.zeros(1, "f")})
    kx.sparsify_onnx(src, tmp_path / "out.onnx", lowering="blocks", **QUICK)
    assert_same(answers(tmp_path / "out.onnx")[0], np.zeros((3, 48)))


def test_constants_that_are_nodes(tmp_path: Path) -> None:
    """Older exporters write weights as Constant nodes, turned by a Transpose of their own."""
    W = planted(48, 64, (8, 8))
    value = numpy_helper.from_array(W, "value")
    nodes = [("Constant", "", "c", {"value": value}), ("Transpose", "c", "w", {"perm": [1, 0]}), ("MatMul", "x w", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 48]}, {})
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block) for layer in report.layers] == [("blocks", (8, 8))]
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T, 1e-5)


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 23])
def test_old_and_new_opsets(tmp_path: Path, opset: int) -> None:
    W = planted(48, 64, (8, 8))
    nodes = [("MatMul", "x w", "h"), ("Split", "h", "p q", {"axis": -1, **({"num_outputs": 2} if opset > 17 else {})})]
    out = {"p": ["b", 24], "q": ["b", 24]}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, out, {"w": W.T}, opset=opset)
    dst, _ = sparse(src, verify=True)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(np.concatenate(answers(dst, x=x), 1), x.astype(float) @ W.T, 1e-5)
    assert next(entry.version for entry in onnx.load(dst).opset_import if entry.domain == "") == opset


def test_float16_by_onnxruntimes_own_converter(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    src = simple(tmp_path)
    onnx.save(convert_float_to_float16(onnx.load(src), keep_io_types=True), src)
    dst, report = sparse(src, verify=True)
    assert report.tolerance == 2e-2
    assert [(layer.lowering, layer.dense_bytes) for layer in report.layers] == [("blocks", 2 * 48 * 64)]
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ planted(48, 64, (8, 8)).T, 1e-2)


def test_the_tolerance_is_that_of_the_weights(tmp_path: Path) -> None:
    """Integers that only index do not make a float32 file an 8-bit one."""
    src = simple(tmp_path)
    once, report = sparse(src, "dense", verify=True)
    assert report.tolerance == 1e-4
    again = kx.sparsify_onnx(once, tmp_path / "again.onnx", **QUICK)
    assert again.tolerance == 1e-4


def test_several_inputs_of_several_kinds(tmp_path: Path) -> None:
    W, table = planted(48, 64, (8, 8)), np.random.default_rng(0).standard_normal((2, 64)).astype("f")
    nodes = [
        ("Gather", "table ids", "e"),
        ("Cast", "attention_mask", "on", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", "on last", "m"),
        ("Mul", "e m", "x"),
        ("Add", "x extra", "xe"),
        ("MatMul", "xe w", "h"),
        ("Where", "flag h zero", "y"),
    ]
    inputs = {"ids": ["b", "s"], "attention_mask": ["b", "s"], "extra": ["b", "s", 64], "flag": ["b", 1, 1]}
    types = {"ids": TensorProto.INT64, "attention_mask": TensorProto.INT32, "flag": TensorProto.BOOL}
    weights = {"w": W.T, "table": table, "last": np.array([-1]), "zero": np.zeros((), "f")}
    src = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"y": ["b", "s", 48]}, weights, types)
    dst, report = sparse(src, verify=True)
    assert report.batch_sizes == (1, 7, 32)
    rng = np.random.default_rng(1)
    given = {
        "ids": rng.integers(0, 2, (3, 5)),
        "attention_mask": rng.integers(0, 2, (3, 5)).astype(np.int32),
        "extra": rng.standard_normal((3, 5, 64)).astype("f"),
        "flag": np.array([True, False, True])[:, None, None],
    }
    exact = (table[given["ids"]] * given["attention_mask"][..., None] + given["extra"]).astype(float) @ W.T
    assert_same(answers(dst, **given)[0], exact * given["flag"], 1e-5)


def test_the_callers_own_example(tmp_path: Path) -> None:
    """A model that random inputs do not suit: ids of a vocabulary that starts at 7."""
    W, table = planted(48, 64, (8, 8)), np.ones((1, 64), "f")
    nodes = [("Sub", "ids seven", "i"), ("Gather", "table i", "e"), ("MatMul", "e w", "y")]
    weights = {"w": W.T, "table": table, "seven": np.array(7)}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"ids": ["b"]}, {"y": ["b", 48]}, weights, {"ids": TensorProto.INT64})
    with pytest.raises(kx.KronfxError, match="does not run on random inputs.*pass example_inputs"):
        kx.sparsify_onnx(src, tmp_path / "out.onnx", **QUICK)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", example_inputs={"ids": np.array([7, 7])}, **QUICK)
    assert report.max_error is not None
    assert report.batch_sizes == ()


def test_bodies_are_left_alone_with_a_note(tmp_path: Path) -> None:
    W, V = planted(64, 64, (8, 8)), planted(64, 64, (8, 8), seed=1)
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    inner = [numpy_helper.from_array(np.ascontiguousarray(V.T), "v")]
    then = helper.make_graph([helper.make_node("MatMul", ["h", "v"], ["t"])], "then", [], out, inner)
    other = helper.make_graph([helper.make_node("MatMul", ["h", "w"], ["t"])], "other", [], out)
    nodes = [("MatMul", "x w", "h"), ("If", "flag", "y", {"then_branch": then, "else_branch": other})]
    inputs = {"x": ["b", 64], "flag": []}
    src = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"y": ["b", 64]}, {"w": W.T}, {"flag": TensorProto.BOOL})
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering, verify=True)
        assert len(report.layers) == 1
        assert len(report.notes) == 1
        assert "If, Loop or Scan" in report.notes[0]
        assert report.notes[0] in str(report)
        for flag, last in ((True, V), (False, W)):
            assert_same(answers(dst, x=x, flag=np.array(flag))[0], x.astype(float) @ W.T @ last.T, 1e-5)


def test_an_initializer_that_several_kinds_of_nodes_read(tmp_path: Path) -> None:
    """An embedding tied to the head, as Gather and as Gemm."""
    W = planted(64, 48, (8, 8), 0.6)
    nodes = [("Gather", "w ids", "e"), ("Tanh", "e", "h"), ("Gemm", "h w", "y", {"transB": 1})]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"ids": ["b"]}, {"y": ["b", 64]}, {"w": W}, {"ids": TensorProto.INT64})
    ids = np.array([0, 9, 63])
    for lowering in ("dense", "blocks"):
        dst, _ = sparse(src, lowering, verify=True)
        assert_same(answers(dst, ids=ids)[0], np.tanh(W[ids].astype(float)) @ W.T, 1e-5)
        if lowering == "dense":
            assert constants(dst) <= np.count_nonzero(W) + 64  # and one block of zeros


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_output(tmp_path: Path, lowering: str) -> None:
    src = simple(tmp_path)
    model = onnx.load(src)
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 48]))
    onnx.save(model, src)
    dst, _ = sparse(src, lowering, verify=True)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    W = planted(48, 64, (8, 8))
    y, w = answers(dst, x=x)
    assert_same(y, x.astype(float) @ W.T, 1e-5)
    np.testing.assert_array_equal(w, W.T)
    assert [value.name for value in onnx.load(dst).graph.output] == ["y", "w"]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_input(tmp_path: Path, lowering: str) -> None:
    """The caller can replace it, so it stays; that of the same value beside it does not."""
    W = planted(64, 64, (8, 8))
    nodes = [("MatMul", "x w", "h"), ("MatMul", "h v", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 64]}, {"w": W.T, "v": W.T})
    model = onnx.load(src)
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [64, 64]))
    onnx.save(model, src)
    dst, report = sparse(src, lowering, verify=True)
    assert [(layer.site, layer.lowering) for layer in report.layers] == [("w", lowering)]
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T @ W.T, 1e-5)
    V = np.random.default_rng(1).standard_normal((64, 64)).astype("f")
    assert_same(answers(dst, x=x, v=V)[0], x.astype(float) @ W.T @ V, 1e-5)


TAKEN = {
    ("dense", "w/blocks"),
    ("dense", "w/gaps"),
    ("dense", "kronfx/axis"),
    ("blocks", "w/0/blocks"),
    ("blocks", "w/0/columns"),
    ("blocks", "kronfx/8x8x-1"),
}


@pytest.mark.parametrize("name", ["w/0/blocks", "w/blocks", "w/gaps", "w/0/columns", "kronfx/8x8x-1", "kronfx/axis"])
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_names_that_are_taken(tmp_path: Path, name: str, lowering: str) -> None:
    W, factor = planted(64, 64, (8, 8)), np.arange(64, dtype="f")
    nodes = [("MatMul", "x w", "h"), ("Mul", f"h {name}", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 64]}, {"w": W.T, name: factor})
    dst, _ = sparse(src, lowering)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T * factor, 1e-5)


@pytest.mark.xfail(strict=True, reason="a Reshape with 0 and -1 cannot take a batch of no rows")
def test_an_empty_batch(tmp_path: Path) -> None:
    W = planted(48, 64, (8, 8))
    src = onnx_file(
        tmp_path / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", "s", 64]}, {"y": ["b", "s", 48]}, {"w": W.T}
    )
    dst, _ = sparse(src)
    for dims in ((0, 5), (2, 0), (0, 0)):
        assert answers(dst, x=np.zeros((*dims, 64), "f"))[0].shape == (*dims, 48)


def external(src: Path) -> Path:
    """The same model with its weights in ``m.bin`` beside it."""
    model = onnx.load(src)
    onnx.save(model, src, save_as_external_data=True, location="m.bin", size_threshold=0)
    return src.with_name("m.bin")


def test_a_source_with_external_data(tmp_path: Path) -> None:
    src = simple(tmp_path)
    data = external(src)
    before = src.read_bytes(), data.read_bytes()
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(src, tmp_path / "out" / "m.onnx", lowering="blocks", **QUICK)
    assert (src.read_bytes(), data.read_bytes()) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.onnx"]
    assert report.bytes == (tmp_path / "out" / "m.onnx").stat().st_size
    data.unlink()
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(tmp_path / "out" / "m.onnx", x=x)[0], x.astype(float) @ planted(48, 64, (8, 8)).T, 1e-5)


def test_external_data_over_itself(tmp_path: Path) -> None:
    src = simple(tmp_path)
    external(src)
    kx.sparsify_onnx(src, src, lowering="blocks", **QUICK)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(src, x=x)[0], x.astype(float) @ planted(48, 64, (8, 8)).T, 1e-5)


def test_a_model_past_the_limit_of_one_file(tmp_path: Path) -> None:
    """With the limit lowered: weights go beside the file, and the pair is one model."""
    src = simple(tmp_path, m=480, n=640)
    dst, _ = sparse(src, "dense")
    model, out = ir.load(dst), tmp_path / "out" / "large.onnx"
    out.parent.mkdir()
    size = save(model, out, out, limit=2**24 + 1000)  # 16 MiB are left for what is no weight
    assert sorted(path.name for path in out.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert size == sum(path.stat().st_size for path in out.parent.iterdir())
    assert out.stat().st_size < 10_000 < out.with_name("large.onnx.data").stat().st_size
    onnx.checker.check_model(str(out), full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 640)).astype("f")
    assert_same(answers(out, x=x)[0], x.astype(float) @ planted(480, 640, (8, 8)).T, 1e-5)
    small = tmp_path / "small.onnx"
    assert save(ir.load(dst), small, small, limit=2**24 + 2**21) == small.stat().st_size


def test_a_large_model_is_verified_and_moved_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "save", lambda model, path, target: save(model, path, target, limit=2**24 + 1000))
    src, out = simple(tmp_path, m=480, n=640), tmp_path / "out" / "large.onnx"
    out.parent.mkdir()
    report = kx.sparsify_onnx(src, out, lowering="blocks", rows=1)
    assert report.max_error is not None
    assert sorted(path.name for path in out.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert report.bytes == sum(path.stat().st_size for path in out.parent.iterdir())
    x = np.random.default_rng(0).standard_normal((3, 640)).astype("f")
    assert_same(answers(out, x=x)[0], x.astype(float) @ planted(480, 640, (8, 8)).T, 1e-5)
    assert [layer.lowering for layer in deploy.read(out).layers] == ["blocks"]


def test_a_convolutional_network_exported_by_torch(tmp_path: Path) -> None:
    """1x1 convolutions between others, and a classifier."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 32, 1, bias=False),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in (model[2], model[4], model[9]):
            m, n = layer.weight.shape[:2]
            layer.weight *= torch.from_numpy(planted(m, n, (8, 8), 0.7) != 0).reshape(layer.weight.shape)
    src, x = tmp_path / "conv.onnx", torch.randn(2, 3, 9, 7)
    torch.onnx.export(model, (x,), src, dynamic_shapes=({0: torch.export.Dim("b")},), dynamo=True, external_data=False)
    for lowering in ("dense", "blocks"):
        dst, report = sparse_of(src, tmp_path, lowering)
        assert [layer.lowering for layer in report.layers] == [lowering] * 3
        assert all(layer.bytes < layer.dense_bytes / 2 for layer in report.layers)
        y = torch.randn(5, 3, 9, 7)
        with torch.no_grad():
            assert_same(run(dst, y)[0], model(y))


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    src = simple(tmp_path)
    model = onnx.load(src)
    entry = model.metadata_props.add()
    entry.key, entry.value = "license", "mine"
    onnx.save(model, src)
    dst, report = sparse(src)
    written = onnx.load(dst)
    assert {entry.key for entry in written.metadata_props} == {"license", "kronfx"}
    assert written.producer_name == "kronfx"
    assert str(tmp_path).encode() not in dst.read_bytes()
    assert deploy.read(dst).layers == report.layers


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    kx.sparsify_onnx(simple(tmp_path), tmp_path / "out.onnx", rows=1)
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list


def test_sessions_of_the_caller_go_on(tmp_path: Path) -> None:
    src = simple(tmp_path)
    session = onnxruntime.InferenceSession(str(src), providers=["CPUExecutionProvider"])
    x = np.ones((2, 64), "f")
    before = copy.deepcopy(session.run(None, {"x": x}))
    kx.sparsify_onnx(src, src, lowering="blocks", **QUICK)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before[0])
