"""Exported files against the torch model, in onnxruntime and in ONNX's reference evaluator."""

from __future__ import annotations

import copy
import json
import logging
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_files import (
    FLOAT32,
    LeNet,
    assert_same,
    constants,
    factored,
    folded,
    mlp,
    needed_bytes,
    ops,
    run,
    runtime_ops,
)
from onnx_files import evaluated as reference_evaluated
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import kronfx as kx
from kronfx import deploy
from kronfx.layers import KroneckerLinear, folded_layers
from kronfx.records import Evaluation, KroneckerShape


def export(model: nn.Module, path: Path, example: Any, lowering: str = "dense", **options: Any) -> deploy.ExportReport:
    """The public verb, nothing timed."""
    return kx.export_onnx(model, path, example, lowering=lowering, tune=False, **options)


def evaluated(path: Path, x: Tensor) -> np.ndarray:
    """The one output for the one input, by ONNX's reference evaluator."""
    return reference_evaluated(path, **{onnx.load(path).graph.input[0].name: x.numpy()})[0]


@pytest.mark.parametrize(("build", "example"), [(mlp, (1, 512)), (mlp, (2, 5, 512)), (LeNet, (3, 1, 28, 28))])
def test_folded_models_are_small_right_and_run_dense(tmp_path: Path, build: Any, example: tuple[int, ...]) -> None:
    model, path = build().eval(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(example))

    assert report.bytes == path.stat().st_size <= 1.15 * needed_bytes(model)
    assert report.batch_sizes == (1, 7, 32)
    assert report.max_error <= report.tolerance == FLOAT32
    for batch in (1, 7, 256):
        x = torch.randn(batch, *example[1:])
        assert_same(run(path, x)[0], model(x))
    left = runtime_ops(path, tmp_path)
    assert not {"ScatterND", "CumSum", "Cast", "ConstantOfShape", "Transpose"} & set(left)

    x = torch.randn(2, *example[1:])
    assert_same(evaluated(path, x), model(x))


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
@pytest.mark.parametrize("leading", [(2,), (2, 3), (2, 40)])
def test_factors_run_their_evaluation_on_stored_operands(
    tmp_path: Path, evaluation: Evaluation, leading: tuple[int, ...]
) -> None:
    layer, path = factored((6, 4, 8, 16), 3, evaluation), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(*leading, 64), "factors")

    (entry,) = report.layers
    assert entry == deploy.ExportedLayer("0", 48, 64, (8, 16), "factors", 4, 24, 4 * 48 * 64, entry.bytes)
    assert entry.bytes == 4 * 3 * (6 * 4 + 8 * 16)
    assert constants(path) == 3 * (6 * 4 + 8 * 16) + 48
    assert ops(path).count("MatMul") == 2
    assert not {"Gather", "ScatterND", "Gemm"} & set(ops(path))
    assert ops(path).count("Transpose") == 2  # to feature-major and back: the evaluation itself needs none
    for batch in (1, 7, 256):
        x = torch.randn(batch, *leading[1:], 64)
        assert_same(run(path, x)[0], layer(x))
    x = torch.randn(5, *leading[1:], 64)
    assert_same(evaluated(path, x), layer(x))


@pytest.mark.parametrize("lowering", ["dense", "blocks", "auto"])
def test_a_factored_model_runs_folded_too(tmp_path: Path, lowering: str) -> None:
    layer, path = factored((6, 4, 8, 16), 3, "a_first"), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(2, 64), lowering)
    (entry,) = report.layers
    assert (entry.site, entry.zero_blocks, entry.block) == ("0", 4, (8, 16))
    assert entry.lowering == lowering or lowering == "auto"
    x = torch.randn(5, 64)
    assert_same(run(path, x)[0], layer(x))
    assert isinstance(layer, type(factored((6, 4, 8, 16), 3, "a_first")))  # the model itself was not folded


def test_a_materialized_layer_becomes_one_dense_product(tmp_path: Path) -> None:
    layer, path = factored((6, 4, 8, 16), 2, "materialize"), tmp_path / "model.onnx"
    report = export(layer, path, torch.randn(2, 64), "factors")
    assert [(entry.lowering, entry.zero_blocks) for entry in report.layers] == [("dense", 4)]
    assert runtime_ops(path, tmp_path) == ["Gemm"]
    x = torch.randn(9, 64)
    assert_same(run(path, x)[0], layer(x))


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_weights_without_and_with_nothing_but_zero_blocks(tmp_path: Path, zero: float) -> None:
    layer, path = folded(48, 64, (4, 8), zero), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(2, 64))
    (entry,) = report.layers
    assert entry.zero_blocks == (0 if zero == 0 else 96)
    assert entry.bytes <= (4 * 48 * 64 if zero == 0 else 4 * 4 * 8)  # one block of zeros at most
    x = torch.randn(3, 64)
    assert_same(run(path, x)[0], layer(x))


@pytest.mark.parametrize("zero", [0.0, 0.2, 0.4, 0.6])
def test_storage_never_makes_a_file_larger(tmp_path: Path, zero: float) -> None:
    block_sparse = folded(16, 32, (4, 4), zero, bias=False)  # 2 KiB dense: the nodes alone would eat what little is won
    plain = nn.Linear(32, 16, bias=False)
    plain.weight = block_sparse.weight
    sizes = [
        export(nn.Sequential(layer), tmp_path / name, torch.randn(2, 32), verify=False).bytes
        for name, layer in (("sparse", block_sparse), ("plain", plain))
    ]
    record = len(json.dumps({"layers": ["0", 16, 32, [4, 4], "dense", 32, 32, 2048, 2048]}))
    assert sizes[0] <= sizes[1] + record


@pytest.mark.parametrize("evaluation", ["a_first", "materialize"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_factored_layer_that_runs_dense_is_stored_as_its_factors(
    tmp_path: Path, evaluation: Evaluation, bias: bool
) -> None:
    """Which onnxruntime's dynamic quantization leaves alone, save after its preparation, which makes it dense again."""
    model, path = nn.Sequential(factored((12, 8, 16, 16), 3, evaluation, bias), nn.ReLU()), tmp_path / "m.onnx"
    report = kx.export_onnx(model, path, torch.randn(2, 4, 128), lowering="dense")
    assert report.layers[0].bytes == 4 * 3 * (12 * 8 + 16 * 16)
    assert constants(path) == 3 * (12 * 8 + 16 * 16) + 192 * bias
    assert not {"MatMul", "Gemm", "FusedGemm"}.isdisjoint(runtime_ops(path, tmp_path))
    assert len(runtime_ops(path, tmp_path)) <= 3
    x = torch.randn(5, 4, 128)
    assert_same(run(path, x)[0], model(x))
    quantized, prepared = tmp_path / "q.onnx", tmp_path / "p.onnx"
    quantize_dynamic(path, quantized)
    assert_same(run(quantized, x)[0], model(x))
    quant_pre_process(path, prepared)
    quantize_dynamic(prepared, quantized)
    assert "MatMulInteger" in ops(quantized)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("features", [None, (190, 125)])
def test_stored_factors_are_stored_so_again(
    tmp_path: Path, dtype: torch.dtype, features: tuple[int, int] | None
) -> None:
    layer = KroneckerLinear(KroneckerShape(12, 8, 16, 16), 3, "a_first", True, features=features)
    model, path = nn.Sequential(layer).to(dtype), tmp_path / "m.onnx"
    first = export(model, path, torch.randn(2, 4, features[1] if features else 128, dtype=dtype))
    assert first.layers[0].bytes == dtype.itemsize * 3 * (12 * 8 + 16 * 16)
    for _ in range(2):
        again = kx.sparsify_onnx(path, path, lowering="dense", tune=False)
        assert again.layers[0].bytes == first.layers[0].bytes
        assert again.bytes <= first.bytes
    if dtype == torch.float32:
        quantize_dynamic(path, tmp_path / "q.onnx")
        assert "MatMulInteger" not in ops(tmp_path / "q.onnx")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_factored_weight_used_both_ways_is_stored_once(tmp_path: Path, is_first: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = factored((12, 8, 16, 16), 3, "a_first", bias=False)

        def forward(self, x: Tensor) -> Tensor:
            if is_first:
                return self.layer(self.layer(x).relu() @ self.layer.weight)
            return self.layer((x @ self.layer.weight).relu()) @ self.layer.weight

    model, path = Both(), tmp_path / "m.onnx"
    x = torch.randn(4, 128 if is_first else 192)
    report = export(model, path, x)
    assert constants(path) == 3 * (12 * 8 + 16 * 16)
    assert sum(layer.bytes for layer in report.layers) == 4 * constants(path)
    assert_same(run(path, x)[0], model(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float16, 2e-2)])
def test_other_floating_types(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    model = nn.Sequential(folded(48, 64, (4, 8)), nn.ReLU(), factored((4, 6, 8, 8), 2, "a_first")).to(dtype)
    path = tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 64, dtype=dtype))
    assert report.tolerance == tolerance
    assert report.layers[0].bytes < report.layers[0].dense_bytes == 48 * 64 * dtype.itemsize
    x = torch.randn(4, 64, dtype=dtype)
    assert_same(run(path, x)[0], model(x), tolerance)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_bfloat16_is_proven_by_the_reference_evaluator(tmp_path: Path, lowering: str) -> None:
    """onnxruntime has no CPU kernels for it."""
    model = nn.Sequential(folded(48, 64, (4, 8))).bfloat16()
    report = export(model, tmp_path / "m.onnx", torch.randn(2, 64, dtype=torch.bfloat16), lowering)
    assert report.layers[0].bytes < report.layers[0].dense_bytes == 2 * 48 * 64
    assert report.runtime == "ONNX's reference evaluator"
    assert report.max_error is not None
    assert report.max_error <= report.tolerance == 1e-1


def test_nothing_is_verified_where_that_is_declined(tmp_path: Path) -> None:
    report = export(nn.Sequential(folded(48, 64, (4, 8))), tmp_path / "m.onnx", torch.randn(2, 64), verify=False)
    assert (report.max_error, report.batch_sizes, report.load_seconds) == (None, (), None)
    assert str(report).endswith("not verified")


def test_a_fused_batch_norm_does_not_hide_a_layer(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(48)
    norm.running_var.fill_(3.0)
    norm.running_mean.uniform_()
    model, path = nn.Sequential(folded(48, 64, (4, 8)), norm).eval(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 64))
    assert report.layers[0].bytes < report.layers[0].dense_bytes / 5
    assert runtime_ops(path, tmp_path) == ["Gemm"]  # one fused product: the scaled weight is what is stored
    x = torch.randn(4, 64)
    assert_same(run(path, x)[0], model(x))


class Shared(nn.Module):
    """One layer under two names, its weight in a second layer, both orientations at work; a factored one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = folded(48, 48, (8, 8), 0.8)
        self.again = self.a
        self.tied = folded(48, 48, (8, 8), 0.8, bias=False)
        self.tied.weight = self.a.weight
        self.k = factored((6, 6, 8, 8), 2, "b_first")
        self.once_more = self.k
        self.unused = folded(48, 48, (8, 8), 0.5, seed=5)

    def forward(self, x: Tensor) -> Tensor:
        return self.once_more(self.tied(self.again(self.a(self.k(x)))[:, None]))


def test_tied_layers_are_stored_once_and_unused_ones_not_at_all(tmp_path: Path) -> None:
    model, path = Shared(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 48), "factors")
    survivors = 36 - folded_layers(model)["a"].zero_blocks()
    stored = {entry.site: entry.bytes for entry in report.layers}
    assert constants(path) <= (survivors + 1) * 64 + 2 * (36 + 64) + 2 * 48
    assert sum(stored.values()) <= 4 * ((survivors + 1) * 64 + 2 * (36 + 64)) + 100
    x = torch.randn(6, 48)
    assert_same(run(path, x)[0], model(x))


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


def test_the_file_says_nothing_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Shared(), path, torch.randn(2, 48))
    model, content = onnx.load(path), path.read_bytes()
    assert model.producer_name == "kronfx"
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert set(told) == {"kronfx", "kronfx.source"}
    assert told["kronfx.source"] == f"pytorch {torch.__version__}"
    assert not any(node.doc_string for node in model.graph.node)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} <= {"namespace"}
    for leak in (b".py", b"site-packages", str(tmp_path).encode(), str(Path.home()).encode(), b"stack_trace"):
        assert leak not in content


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any, caplog: Any) -> None:
    export(nn.Sequential(folded(48, 32, (4, 8))), tmp_path / "model.onnx", torch.randn(1, 32))
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
