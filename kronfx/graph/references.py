"""Every reference to a module that gives way to another: found, and pointed at the other.

A model's children are not all that holds its modules. Lists, dicts, tuples, partials and bound methods do, in
attributes of modules and of other objects, and so do the cells of closures (where ``torch.compile`` keeps what it
wraps). A layer that is swapped among the children only would go on running, dense and untrained, from the others.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any
from weakref import ProxyTypes

from torch import Tensor, nn
from torch.optim import Optimizer

# Values that hold no reference to a module, or none that is the model's own.
_PLAIN = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, str, bytes, int, float, complex)


def follow(root: nn.Module, replacements: Mapping[Any, Any]) -> nn.Module:
    """Point everything that ``root`` reaches from keys, modules and parameters, to their values; returns the root,
    replaced or not. What modules have registered as their parameters stays.
    """
    walk = _Walk({id(old): new for old, new in replacements.items()})
    result: nn.Module = walk.new(root)
    walk.finish()
    return result


def held(root: nn.Module) -> set[int]:
    """The addresses of everything that ``root`` reaches: modules, and tensors that are held otherwise than as a
    module's parameters.
    """
    walk = _Walk({})
    walk.new(root)
    walk.finish()
    return walk.tensors | walk.seen.keys()


class _Walk:
    """One pass over everything that can be reached. What can be changed in place waits in a queue and is visited once;
    what cannot (tuples, methods, partials) is made anew where something in it has to be another."""

    def __init__(self, replacements: Mapping[int, Any]) -> None:
        self.replacements = replacements
        self.tensors: set[int] = set()
        self.seen: dict[int, Any] = {}  # by address, and the objects themselves, so that none is used twice
        self.waiting: list[Any] = []

    def new(self, value: Any) -> Any:
        """What stands for a value from now on."""
        if value is None or type(value) in ProxyTypes or isinstance(value, _PLAIN):
            return value
        value = self.replacements.get(id(value), value)
        if isinstance(value, Tensor):
            self.tensors.add(id(value))
            return value
        if isinstance(value, (tuple, frozenset)):
            return self._tuple(value)
        if isinstance(value, types.MethodType):
            owner = self.new(value.__self__)
            return value if owner is value.__self__ else _bound(value.__func__, owner)
        if isinstance(value, partial):
            return self._partial(value)
        if id(value) not in self.seen:
            self.seen[id(value)] = value
            self.waiting.append(value)
        return value

    def finish(self) -> None:
        """Visit what waits, and what turns up meanwhile."""
        while self.waiting:
            value = self.waiting.pop()
            if isinstance(value, (list, deque)):
                for index, each in enumerate(list(value)):
                    self._set(value, index, each)
            elif isinstance(value, dict):
                self._dict(value)
            elif isinstance(value, set):
                others = [(each, self.new(each)) for each in value]
                value -= {old for old, new in others if new is not old}
                value |= {new for old, new in others if new is not old}
            elif isinstance(value, types.FunctionType):
                self._function(value)
            self.members(value)

    def members(self, value: Any) -> None:
        """What an object's attributes hold, but for what modules have registered as parameters: the functions that
        ``torch.compile`` wraps them in have their attributes too.
        """
        held = getattr(value, "__dict__", None)
        if type(held) is dict and not isinstance(value, Optimizer):
            for name in held.keys() - {"_parameters"}:
                self._set(held, name, held[name])

    def _set(self, holder: Any, key: Any, each: Any) -> None:
        other = self.new(each)
        if other is not each:
            holder[key] = other

    def _dict(self, held: dict[Any, Any]) -> None:
        for key, each in list(held.items()):
            self._set(held, key, each)
        if any(self.new(key) is not key for key in list(held)):
            renamed = [(self.new(key), each) for key, each in held.items()]
            held.clear()
            held.update(renamed)

    def _tuple(self, value: Any) -> Any:
        items = list(value)
        others = [self.new(each) for each in items]
        if all(other is each for other, each in zip(others, items)):
            return value
        return value._make(others) if hasattr(value, "_make") else type(value)(others)

    def _partial(self, value: partial[Any]) -> Any:
        function, args = self.new(value.func), self.new(value.args)
        keywords = {name: self.new(each) for name, each in value.keywords.items()}
        held = [function, *args, *keywords.values()]
        unchanged = all(a is b for a, b in zip(held, (value.func, *value.args, *value.keywords.values())))
        return value if unchanged else type(value)(function, *args, **keywords)

    def _function(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # a cell that is still empty
                continue
            other = self.new(content)
            if other is not content:
                cell.cell_contents = other


def _bound(function: Any, owner: Any) -> Any:
    """The method of the same name that ``owner`` has, if its class has one of its own."""
    return getattr(owner, function.__name__, None) or types.MethodType(function, owner)
