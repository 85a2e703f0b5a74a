"""A trace sees one value of ``self.training``; a module has two. Two traces, laid side by side, give it back.

Where the training and the evaluation trace differ in a constant only (a dropout flag, a dropout probability), that
constant becomes a call to a :class:`ModeConstant`, which looks at ``training`` each time. Where they differ in what
they do, there is no one graph, and the owner is refused.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from kronfx.layers import CHILD


class ModesDiffer(Exception):
    """The two modes run different operations."""


class ModeConstant(nn.Module):
    """One value while training, another in evaluation; ``train()`` and ``eval()`` reach it as they reach any child."""

    def __init__(self, training_value: Any, evaluation_value: Any) -> None:
        super().__init__()
        self.training_value, self.evaluation_value = training_value, evaluation_value

    def forward(self) -> Any:
        """The value of the current mode."""
        return self.training_value if self.training else self.evaluation_value

    def extra_repr(self) -> str:
        """Both values."""
        return f"training={self.training_value!r}, evaluation={self.evaluation_value!r}"


def merge(owner: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> fx.GraphModule:
    """One GraphModule that is right in both modes. Raises ModesDiffer where that is impossible."""
    module = _module(owner, training)
    pair = list(zip(module.graph.nodes, evaluation.nodes))
    if len(training.nodes) != len(evaluation.nodes) or any((a.op, a.target) != (b.op, b.target) for a, b in pair):
        raise ModesDiffer("its forward runs other operations in training than in evaluation")
    twin = {b: a for a, b in pair}
    for ours, theirs in pair:
        ours.args = _merged(module, ours, ours.args, fx.map_arg(theirs.args, twin.__getitem__))
        ours.kwargs = _merged(module, ours, ours.kwargs, fx.map_arg(theirs.kwargs, twin.__getitem__))
    module.recompile()
    return module


def _module(owner: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A GraphModule with all that the owner holds, what its forward does not touch included: other code may ask."""
    module = fx.GraphModule(owner, graph, class_name=type(owner).__name__)
    for name in ("_parameters", "_buffers", "_modules"):
        getattr(module, name).update(getattr(owner, name))
    if CHILD in module._modules:  # what an earlier pass left: ours to add to, not the owner's
        module.add_module(CHILD, nn.ModuleDict(dict(module.get_submodule(CHILD).named_children())))
    module._non_persistent_buffers_set |= owner._non_persistent_buffers_set
    for name, value in vars(owner).items():
        if not name.startswith("_") and name not in vars(module):
            setattr(module, name, value)
    module.training = owner.training
    return module


def _merged(module: fx.GraphModule, node: fx.Node, ours: Any, theirs: Any) -> Any:
    """``ours`` where both agree; containers element by element; a ModeConstant where two constants differ."""
    if isinstance(ours, (tuple, list)) and type(ours) is type(theirs) and len(ours) == len(theirs):
        return type(ours)(_merged(module, node, a, b) for a, b in zip(ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return {key: _merged(module, node, ours[key], theirs[key]) for key in ours}
    if isinstance(ours, fx.Node) or isinstance(theirs, fx.Node):
        if ours is not theirs:
            raise ModesDiffer("its forward connects other values in training than in evaluation")
        return ours
    return ours if ours == theirs else _mode_constant(module, node, ours, theirs)


def _mode_constant(module: fx.GraphModule, node: fx.Node, training: Any, evaluation: Any) -> fx.Node:
    name = f"{CHILD}.mode_constant_{sum(isinstance(child, ModeConstant) for child in module.modules())}"
    module.add_submodule(name, ModeConstant(training, evaluation).train(module.training))
    with module.graph.inserting_before(node):
        return module.graph.call_module(name)
