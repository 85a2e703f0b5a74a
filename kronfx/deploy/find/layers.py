"""A linear map of the graph with what its lowerings need: the grid, the survivors, the factors if they are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.convolutions import FactoredConvolution
from kronfx.deploy.find.grid import grid_of
from kronfx.deploy.find.known import KnownWeight, PlacedWeight, placed
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.names import named, scope_of
from kronfx.deploy.find.packed import Packed, find_packed
from kronfx.deploy.find.spellings import find
from kronfx.deploy.find.stored import LeftConstant
from kronfx.deploy.nodes.values import tensor_of
from kronfx.deploy.storage import Shared, Storage, Survivors, fewest_bytes, survivors
from kronfx.progress import bar
from kronfx.records import KroneckerShape


@dataclass(frozen=True)
class Layer:
    """One linear map; ``name`` is that of its weight's site, shared by maps that share the weight.

    ``origin`` is what was known of that weight, if anything was; ``asked`` is the block that was asked for, which need
    not fit. ``folder`` is where viewers show its nodes. Its blocks are ``shared`` where the file needs its weight in
    another form too.
    """

    linear: Linear
    name: str
    shape: KroneckerShape
    origin: KnownWeight | None = None
    asked: tuple[int, int] | None = None
    folder: str = ""
    shared: Shared | None = None

    @cached_property
    def survivors(self) -> Survivors:
        """The surviving blocks of ``W``."""
        return survivors(self.linear.W, self.shape)

    @cached_property
    def storage(self) -> Storage | None:
        """How a file keeps the weight of a layer that runs dense; None where as it is."""
        alive, linear = self.survivors, self.linear
        if tensor_of(linear.weight).dtype.bitwidth < 8:
            return None  # onnxruntime gathers no smaller numbers
        if linear.scales is not None or not linear.is_symmetric:
            alive = survivors(linear.upright, self.shape, linear.ground)
        return fewest_bytes(alive, self.origin.product if self.origin is not None else None)

    def of(self, linear: Linear, shared: Shared | None = None) -> Layer:
        """The same layer in a clone of the graph, or of blocks that are shared, with what was worked out of its
        values."""
        moved = replace(self, linear=linear, shared=shared)
        moved.__dict__.update({name: self.__dict__[name] for name in ("survivors", "storage") if name in self.__dict__})
        return moved

    @property
    def itemsize(self) -> float:
        """Bytes of one entry of the stored weight."""
        return tensor_of(self.linear.weight).dtype.itemsize

    @property
    def dense_bytes(self) -> int:
        """Size of the dense ``W``."""
        m, n = self.survivors.dims
        return round(m * n * self.itemsize)

    @property
    def is_padded(self) -> bool:
        """True where the last blocks of the grid reach beyond ``W``."""
        return self.survivors.dims != (self.shape.m, self.shape.n)


@dataclass(frozen=True, slots=True)
class Kept:
    """How a file keeps a constant that is ``W``, or ``W^T`` where it is ``transposed``; what that adds is called
    ``name``."""

    name: str
    value: ir.Value
    transposed: bool
    storage: Storage


@dataclass(frozen=True, slots=True)
class LinearMaps:
    """All that a graph holds of linear maps, the known weights that none of them reads, what else was ``left``, and the
    ``convolutions`` that it has as factors."""

    layers: tuple[Layer, ...]
    unread: tuple[PlacedWeight, ...] = ()
    packed: tuple[Packed, ...] = ()
    left: tuple[LeftConstant, ...] = ()
    convolutions: tuple[FactoredConvolution, ...] = ()

    def kept(self) -> Iterator[Kept]:
        """How the file keeps those of its constants that it keeps in another way, if they are still there."""
        for layer in self.layers:
            if layer.storage is not None:
                yield Kept(layer.name, layer.linear.weight, layer.linear.transposed, layer.storage)
        for weight in self.unread:
            if weight.storage is not None:
                yield Kept(weight.origin.site, weight.value, weight.constant.transposed, weight.storage)
        for left in self.left:
            if left.storage is not None:
                yield Kept(left.name, left.value, False, left.storage)


def linear_maps(
    graph: ir.Graph, weights: Sequence[KnownWeight] = (), block: tuple[int, int] | None = None
) -> LinearMaps:
    """Every linear map, with its grid: the one that is known, ``block`` where it fits, else the detected one."""
    linears, packed = find(graph), find_packed(graph)
    places = _told_apart(placed(graph, weights), linears, weights)
    directions: dict[ir.Value, list[bool]] = {}
    for linear in linears:
        directions.setdefault(linear.weight, []).append(linear.transposed)
    scopes = named((*linears, *packed), {value: place.origin.site for value, place in places.items()})
    layers: list[Layer] = []
    shapes: dict[tuple[ir.Value, bool], KroneckerShape] = {}
    with bar("looking", len(linears)) as begin:
        for linear in linears:
            scope = scopes[linear.weight]
            name = scope.path
            begin(name)
            place, key = places.get(linear.weight), (linear.weight, linear.transposed)
            is_upright = place is not None and _is_upright(place, linear)
            origin = None if place is None else place.origin if is_upright else place.origin.T
            if key not in shapes:
                shapes[key] = origin.shape if origin else grid_of(linear.W, block)
            ways = directions[linear.weight]
            if len(set(ways)) > 1 and not (is_upright if origin else linear.transposed == ways[0]):
                name = f"{name}/transposed"
            layers.append(Layer(linear, name, shapes[key], origin, None if origin else block, scope.folder))
    read = {layer.linear.weight for layer in layers}
    return LinearMaps(
        tuple(layers),
        tuple(place for value, place in places.items() if value not in read),
        tuple(replace(product, site=scopes[product.weight].path) for product in packed),
    )


def _told_apart(
    places: Mapping[ir.Value, PlacedWeight], linears: Sequence[Linear], weights: Sequence[KnownWeight]
) -> dict[ir.Value, PlacedWeight]:
    """Of weights that are equal, a constant holds the one that it, or the module that reads it, is called after."""
    sites, told = {weight.site: weight for weight in weights}, dict(places)
    for linear in reversed(linears):
        place, scope, name = places.get(linear.weight), scope_of(linear.node), linear.weight.name or ""
        names = (name, name.rpartition(".")[0], "" if scope is None else scope.path)
        own = next((sites[name] for name in names if name in sites), None)
        if place is None or own is None or own.site == place.origin.site:
            continue
        if np.array_equal(own.W, place.constant.array):
            told[linear.weight] = replace(place, origin=own)
    return told


def moved(maps: LinearMaps, graph: ir.Graph) -> LinearMaps:
    """The same of a clone of the graph: nothing is looked for again, which takes a second for 100 MB of weights."""
    pairs = zip(maps.layers, find(graph), strict=True)
    layers = tuple(layer.of(linear) for layer, linear in pairs)
    unread = tuple(weight.moved(graph) for weight in maps.unread)
    return replace(maps, layers=layers, unread=unread, left=tuple(one.moved(graph) for one in maps.left))


def _is_upright(place: PlacedWeight, linear: Linear) -> bool:
    """The product is with the known ``W``, not with its transpose; those may be equal."""
    return place.constant.transposed == linear.transposed or np.array_equal(place.origin.W, linear.W)
