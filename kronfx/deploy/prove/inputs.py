"""Example inputs: what they are, what varies with the batch, and the same at other batch sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The only spelling torch has for nested values that knows the classes registered with it.
from torch.utils import _pytree as pytree

from kronfx.errors import ExportError


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of one call; ``batch`` is dim 0 of the first tensor, None where that has no dimension."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order in which the exported graph takes them."""
        return tensors_of((self.args, self.kwargs))

    @property
    def batch(self) -> int | None:
        """Rows of the example."""
        first = self.tensors[0]
        return first.shape[0] if first.dim() else None

    def is_batched(self, tensor: Tensor) -> bool:
        """True where dim 0 is taken for the batch: it equals that of the first tensor."""
        return tensor.dim() > 0 and tensor.shape[0] == self.batch

    def at_batch(self, size: int) -> Inputs:
        """The same inputs with ``size`` rows: the example's, over and over, floating ones varied a little.

        Every floating entry is scaled by a random 0.8 ... 1, so rows differ while zeros, signs, infinities
        and bounds stay. A tensor that is zero throughout would exercise no weight: it becomes uniform in 0
        ... 1. Integers (token ids) are repeated as they are.
        """
        generator = torch.Generator().manual_seed(size)

        def resized(leaf: object) -> object:
            if not isinstance(leaf, Tensor) or not self.is_batched(leaf):
                return leaf
            rows = leaf.detach()[torch.arange(size, device=leaf.device) % leaf.shape[0]]
            return _varied(rows, generator) if rows.is_floating_point() else rows

        args, kwargs = pytree.tree_map(resized, (self.args, self.kwargs))
        return Inputs(args, kwargs)

    def dynamic_batch(self, model: nn.Module) -> dict[str, Any]:
        """``dynamic_shapes`` for torch.export: the batch of every batched tensor is free, all else fixed."""

        def axes(leaf: object) -> dict[int, str] | None:
            return {0: "batch"} if isinstance(leaf, Tensor) and self.is_batched(leaf) else None

        bound = inspect.signature(model.forward).bind(*self.args, **self.kwargs)
        shapes: dict[str, Any] = pytree.tree_map(axes, dict(bound.arguments))
        return shapes


def inputs_of(example: Any, model: nn.Module) -> Inputs:
    """The example as arguments of ``model``. Raises ExportError where it cannot be."""
    if isinstance(example, Tensor):
        inputs = Inputs((example,), {})
    elif isinstance(example, Mapping):
        inputs = Inputs((), _in_signature_order(dict(example), model))
    elif isinstance(example, (tuple, list)):
        inputs = Inputs(tuple(example), {})
    else:
        raise _unfit(f"example_inputs of type {type(example).__name__}")
    if not inputs.tensors:
        raise _unfit("no tensor among example_inputs")
    if inputs.batch == 0:
        raise _unfit("an example of 0 rows")
    if any(tensor.is_meta for tensor in inputs.tensors):
        raise _unfit("an example on the meta device, which holds no values")
    try:
        inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise _unfit(f"example_inputs that do not fit {type(model).__name__}.forward ({error})") from None
    return inputs


def tensors_of(values: object) -> list[Tensor]:
    """The tensors of nested tuples, lists, dicts and classes registered with torch's pytree, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _in_signature_order(kwargs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The exported graph takes its inputs in the order of the signature, whatever that of the dict."""
    order = [name for name in inspect.signature(model.forward).parameters if name in kwargs]
    return {name: kwargs[name] for name in [*order, *(name for name in kwargs if name not in order)]}


def _varied(rows: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(rows.shape, generator=generator).to(device=rows.device, dtype=rows.dtype)
    return noise if not rows.any() else rows * (0.8 + 0.2 * noise)


def _unfit(found: str) -> ExportError:
    needed = "a tensor, a tuple of tensors or a dict of keyword tensors that the model can be called with"
    return ExportError("", found, needed, "pass one real batch of the model's inputs")
