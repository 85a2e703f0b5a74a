"""A linear map of the graph with what its lowerings need: the grid, the survivors, the factors if they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.grid import grid_of
from kronfx.deploy.find.names import named
from kronfx.deploy.find.packed import Packed, find_packed
from kronfx.deploy.find.spellings import Linear, find
from kronfx.deploy.find.weights import Weights
from kronfx.deploy.nodes.values import Array, tensor_of
from kronfx.deploy.storage import Product, Storage, Survivors, fewest_bytes, survivors
from kronfx.layers import Factors
from kronfx.records import Evaluation, KroneckerShape


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a weight beforehand: its site, its grid, and its factors where it was trained as such.

    ``product`` is how a file stores these.
    """

    site: str
    shape: KroneckerShape
    W: Array
    factors: Factors | None = None
    evaluation: Evaluation = "materialize"
    product: Product | None = None

    def turned(self) -> Known:
        """The same of ``W^T``, to store it: nobody said how to evaluate that."""
        return Known(self.site, self.shape.turned, self.W.T, product=self.product.turned() if self.product else None)


@dataclass(frozen=True)
class Layer:
    """One linear map; ``name`` is that of its weight's site, shared by maps that share the weight; ``folder`` is where
    viewers show its nodes."""

    linear: Linear
    name: str
    shape: KroneckerShape
    known: Known | None = None
    folder: str = ""

    @cached_property
    def kept(self) -> Survivors:
        """The surviving blocks of ``W``."""
        return survivors(self.linear.W, self.shape)

    @cached_property
    def storage(self) -> Storage | None:
        """How a file keeps the weight of a layer that runs dense; None where as it is."""
        if not self.linear.is_symmetric:
            return None
        return fewest_bytes(self.kept, self.known.product if self.known is not None else None)

    def of(self, linear: Linear) -> Layer:
        """The same layer in a clone of the graph, with what was worked out of its values."""
        moved = replace(self, linear=linear)
        moved.__dict__.update({name: self.__dict__[name] for name in ("kept", "storage") if name in self.__dict__})
        return moved

    @property
    def itemsize(self) -> int:
        """Bytes of one entry of the stored weight."""
        return int(self.linear.stored.dtype.itemsize)

    @property
    def dense_bytes(self) -> int:
        """Size of the dense ``W``."""
        m, n = self.kept.dims
        return m * n * self.itemsize

    @property
    def is_padded(self) -> bool:
        """True where the last blocks of the grid reach beyond ``W``."""
        return self.kept.dims != (self.shape.m, self.shape.n)


@dataclass(frozen=True)
class Held:
    """A known weight that no linear map of the graph reads: stored like that of a layer all the same."""

    known: Known
    value: ir.Value
    turned: bool

    @cached_property
    def kept(self) -> Survivors:
        """The surviving blocks of ``W``."""
        stored = tensor_of(self.value).numpy()
        return survivors(stored.T if self.turned else stored, self.known.shape)

    @cached_property
    def storage(self) -> Storage | None:
        """How a file keeps it; None where as it is."""
        return fewest_bytes(self.kept, self.known.product)


@dataclass(frozen=True, slots=True)
class Found:
    """All that a graph holds of linear maps."""

    layers: tuple[Layer, ...]
    held: tuple[Held, ...] = ()
    packed: tuple[Packed, ...] = ()


def found_layers(graph: ir.Graph, known: Sequence[Known] = (), block: tuple[int, int] | None = None) -> Found:
    """Every linear map, with its grid: the one that is known, ``block`` where it fits, else the detected one.

    Known weights are found by value; else, by their pattern of zero blocks, in a constant nobody else claims. What was
    rescaled on the way (a batch norm fused into it) is found by its pattern, and has no factors any more.
    """
    matched, linears, packed = _matched(graph, known), find(graph), find_packed(graph)
    turns: dict[ir.Value, list[bool]] = {}
    for linear in linears:
        turns.setdefault(linear.weight, []).append(linear.turned)
    scopes = named((*linears, *packed), {value: held.known.site for value, held in matched.items()})
    layers: list[Layer] = []
    shapes: dict[tuple[ir.Value, bool], KroneckerShape] = {}
    for linear in linears:
        match, key = matched.get(linear.weight), (linear.weight, linear.turned)
        is_upright = match is not None and _is_upright(match, linear)
        told = None if match is None else match.known if is_upright else match.known.turned()
        if key not in shapes:
            shapes[key] = told.shape if told else grid_of(linear.W, block)
        name = scopes[linear.weight].path
        ways = turns[linear.weight]
        if len(set(ways)) > 1 and not (is_upright if told else linear.turned == ways[0]):
            name = f"{name}/transposed"
        layers.append(Layer(linear, name, shapes[key], told, scopes[linear.weight].folder))
    read = {layer.linear.weight for layer in layers}
    return Found(
        tuple(layers),
        tuple(held for value, held in matched.items() if value not in read),
        tuple(replace(product, site=scopes[product.weight].path) for product in packed),
    )


def moved(found: Found, graph: ir.Graph) -> Found:
    """The same of a clone of the graph: nothing is looked for again, which takes a second for 100 MB of weights."""
    pairs = zip(found.layers, find(graph), strict=True)
    held = (replace(held, value=graph.initializers[held.value.name or ""]) for held in found.held)
    return replace(found, layers=tuple(layer.of(linear) for layer, linear in pairs), held=tuple(held))


def _is_upright(match: Held, linear: Linear) -> bool:
    """The product is with the known ``W``, not with its transpose; those may be equal."""
    return match.turned == linear.turned or np.array_equal(match.known.W, linear.W)


def _matched(graph: ir.Graph, known: Sequence[Known]) -> dict[ir.Value, Held]:
    weights = Weights(graph)
    found: dict[ir.Value, Held] = {}
    missing = []
    for entry in known:
        equal = weights.equal(entry.W)
        for match in equal:
            found.setdefault(match.value, Held(entry, match.value, match.transposed))
        if not equal:
            missing.append(entry)
    for entry in missing:
        mask = survivors(entry.W, entry.shape).mask
        if mask.all():
            continue
        for match in weights.alike(mask, entry.shape):
            if match.value not in found:
                found[match.value] = Held(replace(entry, factors=None, product=None), match.value, match.transposed)
                break
    return found
