"""Which tensor came from which: a model's run without values, operation by operation.

Every operation of a run on the meta device is seen where autograd is done with it, so whatever way a model spells what
it does (modules, functions, operators, einsum, torch's own attention) it is a few dozen ATen operations here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

_LARGEST = 2**22  # entries of what is filled in where the meta device has no answer
_TAKES_A_PART = {"index", "index_select", "gather", "select"}  # of its first operand, by the others
_TAKES_A_SHAPE = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
    "new_ones", "new_full", "new_empty_strided", "zero", "fill", "bernoulli", "uniform", "normal",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor: the operation it came from and the steps of that one's tensors, in the order of its arguments.

    ``data``: it depends on what goes into the model. ``read``: the parameters that it is made of, where it is made of
    parameters alone. A tensor that is no result has ``op`` ``"given"``.
    """

    op: str
    inputs: tuple[int, ...] = ()
    data: bool = False
    read: frozenset[int] = frozenset()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """The steps of a run, each after its inputs."""

    steps: list[Step] = field(default_factory=list)

    def users(self) -> list[list[int]]:
        """The steps that take each step."""
        users: list[list[int]] = [[] for _ in self.steps]
        for number, step in enumerate(self.steps):
            for one in dict.fromkeys(step.inputs):
                users[one].append(number)
        return users


class Recorder(TorchDispatchMode):
    """Records every operation under it. ``weights`` are the parameters to know again, by number.

    The meta device cannot say which entries are not zero, nor what a router chose. There the answer is that of ones:
    every expert gets every token, every condition holds.
    """

    def __init__(self, weights: dict[Tensor, int], inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow()
        self._number: dict[int, int] = {}
        self._base: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []  # an id speaks of a tensor only as long as it lives
        for tensor, weight in weights.items():
            self._enter(tensor, Step("given", read=frozenset({weight}), size=tensor.numel()))
        for tensor in inputs:
            self._enter(tensor, Step("given", data=True, size=tensor.numel()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        result = _computed(func, flat, spec)
        written = _written(func._schema.arguments, args, kwargs or {})
        if len(written) == 1 and isinstance(result, Tensor):
            result = written[0]  # a real tensor written to by the meta device is still the caller's
        tensors = [value for value in flat if isinstance(value, Tensor)]
        step = self._step(func._schema.name.partition("::")[2].removesuffix("_"), tensors)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not any(tensor is one for one in written):
                self._enter(tensor, _sized(step, tensor))
                if not written and tensors and any(r.alias_info is not None for r in func._schema.returns):
                    self._base[id(tensor)] = tensors[0]
        for tensor in written:
            self._enter(tensor, _sized(step, tensor))
            self._write_through(tensor)
        return result

    def _write_through(self, view: Tensor) -> None:
        """What is written into a view is in its base."""
        while id(view) in self._base:
            base = self._base[id(view)]
            self._enter(base, _sized(self._step("write", [base, view]), base))
            view = base

    def _step(self, op: str, tensors: list[Tensor]) -> Step:
        numbers = tuple(self._known(tensor) for tensor in tensors)
        inputs = [self.flow.steps[number] for number in numbers]
        if op in _TAKES_A_SHAPE:
            return Step(op)
        values = inputs[:1] if op in _TAKES_A_PART and inputs[0].read else inputs
        data = any(step.data for step in values)
        read = frozenset[int]() if data else frozenset().union(*(step.read for step in values))
        return Step(op=op, inputs=numbers, data=data, read=read)

    def _known(self, tensor: Tensor) -> int:
        if id(tensor) not in self._number:
            self._enter(tensor, Step("given", size=tensor.numel()))
        return self._number[id(tensor)]

    def _enter(self, tensor: Tensor, step: Step) -> None:
        self._alive.append(tensor)
        self._number[id(tensor)] = len(self.flow.steps)
        self.flow.steps.append(step)


def _written(arguments: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation writes into: itself in place, or ``out=``."""
    given = dict(zip((argument.name for argument in arguments), args)) | kwargs
    names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return [given[name] for name in names if isinstance(given.get(name), Tensor)]


def _sized(step: Step, tensor: Tensor) -> Step:
    return replace(step, size=tensor.numel())


def _computed(func: Any, flat: list[Any], spec: Any) -> Any:
    """The operation's result: of real tensors what it is, on the meta device where one of them is there."""
    tensors = [value for value in flat if isinstance(value, Tensor)]
    if not any(tensor.is_meta for tensor in tensors):
        args, kwargs = tree_unflatten(flat, spec)
        return func(*args, **kwargs)
    meta = [_moved(value) for value in flat]
    args, kwargs = tree_unflatten(meta, spec)
    try:
        return func(*args, **kwargs)
    except Exception:
        if sum(tensor.numel() for tensor in tensors) > _LARGEST:
            raise
        args, kwargs = tree_unflatten([_filled(value) for value in meta], spec)
        return tree_map_only(Tensor, _emptied, func(*args, **kwargs))


def _moved(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    return torch.empty_like(value, device="meta")


def _filled(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return torch.ones_like(value, device="cpu") if isinstance(value, Tensor) else value


def _emptied(value: Tensor) -> Tensor:
    return value.to("meta") if value.is_floating_point() else value


def recorded(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], weights: dict[Tensor, int]) -> Flow:
    """The flow of one forward. Raises whatever the forward raises."""
    inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    recorder = Recorder(weights, inputs)
    with recorder:
        model(*args, **kwargs)
    return recorder.flow
