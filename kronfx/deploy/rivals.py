"""What a person would take instead: an ONNX file in few bits, by onnxruntime's own quantizers. One row each below."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from kronfx.deploy.opening import opened
from kronfx.deploy.quiet import silence
from kronfx.errors import ExportError, reason

RUN = 32  # entries that share a scale in 4 bits
_FACTORS = ("alpha", "beta")  # of a Gemm


def eight_bits(model: onnx.ModelProto, path: Path) -> None:
    """The file in 8 bits by onnxruntime's dynamic quantization, as it comes."""
    # It turns the weights of a Gemm around, but not the shapes noted for them, and then fails on those.
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    quantize_dynamic(model, path)


def four_bits(model: onnx.ModelProto, path: Path) -> None:
    """The file with the weight of every product in 4 bits, by onnxruntime's quantizer at its fastest, the sums in 8.

    It knows no Gemm, which becomes a MatMul and an Add beforehand.
    """
    quiet = logging.NullHandler()
    logging.root.addHandler(quiet)  # or the import would print what all libraries log
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.root.removeHandler(quiet)
    readers = Counter(name for node in model.graph.node for name in node.input)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if readers[tensor.name] == 1}
    nodes = [made for node in model.graph.node for made in _without_gemm(node, weights)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    quantizer = MatMulNBitsQuantizer(model, block_size=RUN, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


RIVALS: dict[str, Callable[[onnx.ModelProto, Path], None]] = {"int8": eight_bits, "int4": four_bits}


def quantized(rival: str, source: Path, path: Path) -> Path:
    """The file as a row of the table makes it, at ``path``. Raises ExportError where its quantizer cannot."""
    model = opened(source).original.in_one()
    try:
        with silence():
            RIVALS[rival](model, path)
    except Exception as error:  # the quantizers have no class of their own
        found = f"onnxruntime cannot quantize it to {rival} ({reason(error)})"
        raise ExportError(str(source), found, "a file that it can", "compare without") from error
    return path


def _without_gemm(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The node, or the MatMul and the Add that do the same; its weight, which nobody else reads, is turned in place."""
    settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "Gemm" or settings.get("transA", 0) or any(settings.get(name, 1) != 1 for name in _FACTORS):
        return [node]
    x, W, *bias = node.input
    if W not in weights:
        return [node]
    if settings.get("transB", 0):
        weights[W].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[W]).T.copy(), W))
    product = f"{node.output[0]}/product" if bias else node.output[0]
    made = [onnx.helper.make_node("MatMul", [x, W], [product], f"{node.name}/MatMul")]
    return [*made, onnx.helper.make_node("Add", [product, *bias], node.output, f"{node.name}/Add")] if bias else made
