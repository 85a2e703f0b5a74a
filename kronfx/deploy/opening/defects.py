"""What exporters get wrong and runtimes put up with: mended, so that what is written is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

from kronfx.deploy.opening.protos import graphs


def mend(model: onnx.ModelProto) -> None:
    """Mend in place what has one meaning only."""
    model.ClearField("training_info")  # nobody reads it, and it may hold more weights
    for graph in graphs(model):
        graph.name = graph.name or "graph"
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in (dim for part in _parts(value.type) for dim in part.tensor_type.shape.dim):
                if dim.dim_value < 0:  # a free axis, in words of some exporters
                    dim.ClearField("dim_value")


def maps_set_aside(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Take the types with maps in them, which onnx_ir does not know, out of the model; those of the graph's own inputs
    and outputs by name."""
    own = {value.name: onnx.TypeProto() for value in (*model.graph.input, *model.graph.output) if _has_map(value.type)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in own:
            own[value.name].CopyFrom(value.type)
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _has_map(value.type):
                value.ClearField("type")
    return own


def drop_stale_types(model: onnx.ModelProto) -> tuple[str, ...]:
    """What a file tells of the types of its values goes where it contradicts its nodes; says so.

    It is left behind by tools that changed the nodes. Runtimes infer types anew, and warn.
    """
    problem = _contradiction(model)
    if problem is None:
        return ()
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    for forget, what in _FORGETTING:
        forget(model)
        if _contradiction(model) is None:
            return (f"the source contradicts itself ({problem}): {what} were dropped",)
    model.CopyFrom(kept)  # that was not it
    return ()


def _contradiction(model: onnx.ModelProto) -> str | None:
    """What ONNX's inference finds, None where nothing is wrong."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # it raises what its C++ raises
        return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
    return None


def _forget_values(model: onnx.ModelProto) -> None:
    for graph in graphs(model):
        graph.ClearField("value_info")


def _forget_shapes(model: onnx.ModelProto) -> None:
    for graph in graphs(model):
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")


_FORGETTING: tuple[tuple[Callable[[onnx.ModelProto], None], str], ...] = (
    (_forget_values, "the types of its inner values"),
    (_forget_shapes, "the types of its inner values and the shapes of its outputs"),
)


def _has_map(kind: onnx.TypeProto) -> bool:
    return any(part.HasField("map_type") for part in _parts(kind))


def _parts(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto]:
    yield kind
    for name in ("sequence_type", "optional_type"):
        if kind.HasField(name):
            yield from _parts(getattr(kind, name).elem_type)
