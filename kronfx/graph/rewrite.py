"""One node of an fx graph gives way to a call of a factored layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx, nn

from kronfx.graph.normalize import Linear, canonical
from kronfx.layers import FactoredLayer


def rewrite(module: fx.GraphModule, node: fx.Node, layer: FactoredLayer) -> None:
    """Replace the canonical node by a call of the layer, which goes where the weight was.

    A bias stays where and what it was: it is added after.
    """
    linear = cast(Linear, canonical(node))  # read anew: what goes in may have been replaced since it was found
    graph, place = module.graph, str(linear.weight.target)
    _remove_parameter(module, place)
    module.add_submodule(place, layer)
    with graph.inserting_after(linear.node):
        result = call = graph.call_module(place, (linear.x,))
    if linear.bias is not None:
        with graph.inserting_after(call):
            result = graph.call_function(torch.add, (call, linear.bias))
        if linear.convolution is not None:
            with graph.inserting_before(result):
                axes = (-1, *(1 for _ in linear.convolution.stride))
                result.args = (call, graph.call_method("unflatten", (linear.bias, 0, axes)))
    linear.node.replace_all_uses_with(result)
    graph.erase_node(linear.node)
    for node in [*linear.weight.users, linear.weight]:  # its transposition, which nothing reads any more, and itself
        graph.erase_node(node)


def _remove_parameter(root: nn.Module, target: str) -> None:
    holder, _, name = target.rpartition(".")
    delattr(root.get_submodule(holder), name)
