"""Files made by hand and checked by nobody: one product with a sparse weight, and whatever follows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import planted

import kronfx as kx

W = planted(128, 128, (16, 16), 0.8)
X = np.random.default_rng(0).standard_normal((3, 128)).astype("f")
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["t"])
QUICK: dict[str, Any] = {"tune": False}


def info(name: str, dims: Sequence[Any] | None = ("b", 128), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (info("x"),),
    outputs: Sequence[onnx.ValueInfoProto] = (info("y"),),
    weights: Sequence[np.ndarray] = (W.T,),
    opset: int = 18,
    ir_version: int = 9,
    **more: Any,
) -> Path:
    """A file made by hand, unchecked; ``weights`` are called w, v, ..."""
    tensors = [numpy_helper.from_array(np.asarray(a, order="C"), name) for a, name in zip(weights, "wvu", strict=False)]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors, **more)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    path.write_bytes(model.SerializeToString())
    return path


def written(src: Path, **options: Any) -> tuple[Path, kx.ExportReport]:
    """The new file, verified, smaller."""
    dst = src.with_name("out.onnx")
    report = kx.sparsify_onnx(src, dst, **{**QUICK, **options})
    assert report.max_error is not None
    assert report.bytes == dst.stat().st_size < src.stat().st_size
    onnx.checker.check_model(str(dst), full_check=True)
    return dst, report


def refusal(src: Path, **options: Any) -> str:
    with pytest.raises(kx.KronfxError) as caught:
        kx.sparsify_onnx(src, src.with_name("out.onnx"), **{**QUICK, **options})
    assert not src.with_name("out.onnx").exists()
    return str(caught.value)
