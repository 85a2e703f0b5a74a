"""ONNX files of one operator that is onnxruntime's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def fused_file(
    path: Path,
    operator: str,
    inputs: Sequence[str],
    x: Sequence[Any],
    y: Sequence[Any],
    attributes: Mapping[str, Any],
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    **constants: np.ndarray,
) -> Path:
    """``y`` of one node of com.microsoft that reads ``x`` and constants; ``kinds`` are the types of ``x`` and ``y``."""
    node = helper.make_node(operator, inputs, ["y"], domain="com.microsoft", **attributes)
    ends = [
        helper.make_tensor_value_info(name, kind, dims) for name, kind, dims in zip("xy", kinds, (x, y), strict=True)
    ]
    initializers = [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path
