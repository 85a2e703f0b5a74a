"""Everything in a graph that is constant, as initializers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.shape_inference import infer_node_outputs
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass, ShapeInferencePass
from onnxscript.optimizer import fold_constants

from kronfx.deploy.nodes.values import content, is_constant, tensor_of
from kronfx.deploy.opening.protos import reading, unreadable
from kronfx.deploy.opening.values import INFERRED, SMALL
from kronfx.deploy.quiet import silence
from kronfx.errors import KronfxError

_LARGER, _ROOM = 1024, 2**20  # a constant expression may unfold to so many times its constants, and so many bytes more
_LARGEST = 2**30  # bytes that one constant expression may make, folded or not
# Operators whose result has the size that an input or an attribute says.
_SIZED_BY_VALUE = {
    "AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "DFT", "Expand", "HammingWindow",
    "HannWindow", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad", "Range", "Resize", "STFT", "Tile", "Upsample",
}  # fmt: skip


Wanted = Callable[[ir.Node], bool | None]  # None: as onnxscript has it


def lift(path: Path, model: ir.Model) -> None:
    """Constants that are nodes become initializers; what nobody reads goes, in bodies too. Raises ExportError."""
    with reading(path, "its graph cannot be read"):
        LiftConstantsToInitializersPass()(model)
        RemoveUnusedNodesPass()(model)
    for body in model.graph.subgraphs():
        for value in list(body.initializers.values()):
            if value.name and not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del body.initializers[value.name]


def fold(path: Path, model: ir.Model, wanted: Wanted) -> None:
    """Constant expressions become constants where they are ``wanted``, equal ones one, and values learn their shapes.

    Raises ExportError.
    """
    stored = set(model.graph.initializers.values())
    with silence(), reading(path, "its shapes cannot be inferred"):
        _fold(path, model, wanted)
        _unite(model.graph, stored)
        _forget_placeholders(model.graph)
        untold = [value for node in model.graph for value in node.outputs if value.shape is None]
        with suppress(ir.serde.SerdeError):  # it infers a map, of which onnx_ir has no type
            ShapeInferencePass()(model)
    for value in untold:
        value.meta[INFERRED] = True
        if value.is_graph_output() and _is_placeholder(value):  # nothing that a file should say
            value.shape = None


def _fold(path: Path, model: ir.Model, wanted: Wanted) -> None:
    try:
        fold_constants(
            model, input_size_limit=2**62, output_size_limit=2**62, should_fold=_folding(path, model, wanted)
        )
    except KronfxError:
        raise
    except Exception:  # it trips over forms of some operators: what it has folded by then is right, the rest stays
        return


def _unite(graph: ir.Graph, stored: set[ir.Value]) -> None:
    """What was folded is no second copy of what is there: layers that share a weight each transpose or cast it."""
    constants = [value for value in graph.initializers.values() if is_constant(value) and not value.is_graph_output()]
    folded = [value for value in constants if value not in stored and tensor_of(value).nbytes > SMALL]
    alike = {_form(value) for value in folded}
    originals = [value for value in constants if value in stored and _form(value) in alike]
    first: dict[object, ir.Value] = {}
    for value in (*originals, *folded):
        same = first.setdefault((_form(value), content(tensor_of(value).numpy())), value)
        if same is not value and value not in stored:
            ir.convenience.replace_all_uses_with(value, same)
            del graph.initializers[value.name or ""]


def _form(value: ir.Value) -> tuple[object, object]:
    tensor = tensor_of(value)
    return tensor.dtype, tuple(tensor.shape)


def _folding(path: Path, model: ir.Model, wanted: Wanted) -> Wanted:
    """What is folded. Sizes are but numbers in a file: what they make stays within a multiple of its constants, and
    what a runtime would have to make of them, within reason."""
    constants = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    room = _ROOM + _LARGER * sum(tensor.nbytes for tensor in constants if tensor is not None)

    def is_folded(node: ir.Node) -> bool | None:
        nonlocal room
        if node.op_type in _SIZED_BY_VALUE and node.domain == "":
            size = _nbytes(node, model)
            if size is not None and size > _LARGEST:
                raise unreadable(str(path), f"in it is a node {node.name!r} ({node.op_type}) that makes {size:,} bytes")
            if size is None or size > room:
                return False
            room -= size
        return wanted(node)

    return is_folded


def _nbytes(node: ir.Node, model: ir.Model) -> int | None:
    """Bytes of what a node makes of its constants, by ONNX's inference; None where that does not tell."""
    constants = [value for value in node.inputs if value is not None]
    given = {value.name or "": value.const_value for value in constants if value.const_value is not None}
    types = {
        name: onnx.helper.make_tensor_type_proto(tensor.dtype.value, tensor.shape.numpy())
        for name, tensor in given.items()
    }
    data = {name: ir.to_proto(tensor) for name, tensor in given.items() if tensor.nbytes <= SMALL}
    opsets = dict(model.graph.opset_imports)
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
        imports = [onnx.helper.make_opsetid(*pair) for pair in opsets.items()]
        made = infer_node_outputs(schema, ir.to_proto(node), types, data, opset_imports=imports)
    except Exception:  # it raises what its C++ raises: no size then
        return None
    sizes = [_size(kind.tensor_type) for kind in made.values()]
    return None if not sizes or None in sizes else sum(filter(None, sizes))


def _size(kind: onnx.TypeProto.Tensor) -> int | None:
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if None in dims or not kind.HasField("shape"):
        return None
    bits: int = prod(dim or 0 for dim in dims) * ir.DataType(kind.elem_type).bitwidth
    return bits // 8


def _forget_placeholders(graph: ir.Graph) -> None:
    """Drop the shapes in which an earlier inference gave up: the next one would stop where they stand."""
    for node in graph:
        for value in node.outputs:
            if _is_placeholder(value):
                value.shape = None


def _is_placeholder(value: ir.Value) -> bool:
    return value.shape is not None and any(str(dim).startswith("unk__") for dim in value.shape)
