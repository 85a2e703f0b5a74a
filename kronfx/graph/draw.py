"""``kronfx.draw``: the whole model's graph as a picture."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from kronfx.errors import GraphError, reason
from kronfx.files import PathLike, destination, write
from kronfx.graph.factorize import MARK, MARK_EVALUATION
from kronfx.graph.picture import PICTURES, Box, Wire
from kronfx.graph.whole import call_of, graph


def draw(model: nn.Module, path: PathLike, example_inputs: Any = None) -> Path:
    """Draw the graph that :func:`kronfx.graph` gives of a model, every node of a Kronecker subgraph under its site and
    evaluation, ``encoder.layer.0.fc1/a_first``; returns the file's path.

    ``path`` ends in ``.svg``, for a picture that any browser shows, or in ``.dot``, for Graphviz. With
    ``example_inputs`` (a tensor, a tuple or a dict) the shape of what goes along stands at every arrow; nothing is
    computed. Raises GraphError.
    """
    target = destination(path, GraphError)
    picture = PICTURES.get(target.suffix)
    if picture is None:
        found, needed = f"a picture called {target.name}", f"a name that ends in {' or '.join(PICTURES)}"
        raise GraphError("", found, needed, "choose one of these")
    whole = graph(model, example_inputs)
    if example_inputs is not None:
        _measure(whole, example_inputs)
    boxes = [_box(node) for node in whole.graph.nodes]
    wires = [Wire(read.name, node.name, _shape(read)) for node in whole.graph.nodes for read in node.all_input_nodes]
    title = f"{type(model).__name__}: {len(boxes)} nodes"
    return write(target, picture(title, boxes, wires).encode(), GraphError)


def _measure(whole: fx.GraphModule, example_inputs: Any) -> None:
    """Shapes into the nodes' meta, without computing anything; an exported graph has them."""
    if any("val" in node.meta for node in whole.graph.nodes):
        return
    args, kwargs = call_of(example_inputs)
    rest = iter(args)
    asked = [node for node in whole.graph.nodes if node.op == "placeholder"]
    given = [kwargs[node.target] if node.target in kwargs else next(rest, *node.args[:1]) for node in asked]
    try:
        ShapeProp(whole, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*given)
    except Exception as error:  # any model, any exception
        found, remedy = f"inputs that the model does not take ({reason(error)})", "leave them out to draw no shapes"
        raise GraphError("", found, "example_inputs as the model takes them", remedy) from error


def _box(node: fx.Node) -> Box:
    """What happens there, in a word, and where: in a subgraph, in a module."""
    module = node.graph.owning_module
    words = str(node.target)
    if node.op == "call_module" and module is not None:
        words = type(module.get_submodule(words)).__name__
    elif node.op == "call_function":
        words = getattr(node.target, "__name__", words)
    if MARK_EVALUATION in node.meta:
        site = node.meta[MARK]
        return Box(node.name, words.removeprefix(f"{site}."), f"{site}/{node.meta[MARK_EVALUATION]}", is_ours=True)
    inside = list(node.meta.get("nn_module_stack", {}))
    return Box(node.name, words, str(inside[-1]).partition("@")[0] if inside else "", MARK in node.meta)


def _shape(node: fx.Node) -> str:
    """``8 x 784`` of what a node gives, where that is known."""
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    if node.op == "get_attr":
        value = reduce(getattr, str(node.target).split("."), node.graph.owning_module)
    return " x ".join(map(str, value.shape)) if isinstance(value, (Tensor, TensorMetadata)) else ""
