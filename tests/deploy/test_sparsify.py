"""``sparsify_onnx`` from file to file: models that kronfx never saw, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx_files import (
    SMALL,
    answers,
    assert_same,
    constants,
    evaluated,
    normal,
    planted,
    product,
    run,
    runtime_ops,
    sparse,
)
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

import kronfx as kx


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
    report = kx.sparsify_onnx(src, dst, lowering=lowering, tune=False)
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
    return dst, kx.sparsify_onnx(src, dst, lowering=lowering, **{"tune": False, **options})


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


def test_float16_by_onnxruntimes_own_converter(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    src = product(tmp_path / "m.onnx")
    onnx.save(convert_float_to_float16(onnx.load(src), keep_io_types=True), src)
    dst, report = sparse(src, verify=True)
    assert report.tolerance == 2e-2
    assert [(layer.lowering, layer.dense_bytes) for layer in report.layers] == [("blocks", 2 * 48 * 64)]
    x = normal(3, 64)
    assert_same(answers(dst, x=x)[0], x.astype(float) @ SMALL.T, 1e-2)


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
