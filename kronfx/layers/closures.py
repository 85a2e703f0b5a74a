"""Functions that a model holds, in its copy: ``copy.deepcopy`` shares them, and with them the modules they closed over.

``layer.forward = scaled(layer.forward)`` is how forwards are patched; in a copy that function would go on calling the
original's layer. A copied model gets functions of its own, over its own modules.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn


def rebind(copied: nn.Module, original: nn.Module) -> None:
    """Let every function among the attributes of the copy's modules close over the copy's modules."""
    twins = {id(theirs): ours for theirs, ours in zip(original.modules(), copied.modules())}
    for module in copied.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, (types.FunctionType, types.MethodType, partial)):
                vars(module)[name] = _rebound(value, twins, set())


def _rebound(value: Any, twins: Mapping[int, nn.Module], inside: set[int]) -> Any:
    """The value over the copy's modules: itself, where it closes over none of the original's."""
    if id(value) in twins:
        return twins[id(value)]
    if id(value) in inside:  # a function that calls itself
        return value
    inside = inside | {id(value)}
    if isinstance(value, types.MethodType):
        owner = _rebound(value.__self__, twins, inside)
        function = _rebound(value.__func__, twins, inside)
        unchanged = owner is value.__self__ and function is value.__func__
        return value if unchanged else types.MethodType(function, owner)
    if isinstance(value, partial):
        held = [_rebound(each, twins, inside) for each in (value.func, *value.args)]
        keywords = {name: _rebound(each, twins, inside) for name, each in value.keywords.items()}
        given = (value.func, *value.args, *value.keywords.values())
        unchanged = all(a is b for a, b in zip((*held, *keywords.values()), given))
        return value if unchanged else partial(held[0], *held[1:], **keywords)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        others = [_rebound(each, twins, inside) for each in value]
        return value if all(a is b for a, b in zip(others, value)) else type(value)(others)
    return _function(value, twins, inside) if isinstance(value, types.FunctionType) else value


def _function(function: types.FunctionType, twins: Mapping[int, nn.Module], inside: set[int]) -> types.FunctionType:
    cells = function.__closure__ or ()
    try:
        contents = [cell.cell_contents for cell in cells]
    except ValueError:  # a cell that is still empty
        return function
    others = [_rebound(content, twins, inside) for content in contents]
    if all(a is b for a, b in zip(others, contents)):
        return function
    closure = tuple(types.CellType(each) for each in others)
    code, names = function.__code__, function.__globals__
    rebound = types.FunctionType(code, names, function.__name__, function.__defaults__, closure)
    rebound.__kwdefaults__, rebound.__qualname__ = function.__kwdefaults__, function.__qualname__
    vars(rebound).update(vars(function))
    return rebound
