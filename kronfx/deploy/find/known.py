"""What is known of the weights of a graph beforehand, and in which of its constants they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice

import onnx_ir as ir

from kronfx.deploy.find.weights import Constant, Weights
from kronfx.deploy.nodes.values import Array
from kronfx.deploy.storage import Product, Storage, Survivors, fewest_bytes, survivors
from kronfx.layers import Factors
from kronfx.records import Evaluated, Evaluation, KroneckerShape


@dataclass(frozen=True, slots=True)
class KnownWeight:
    """A weight's site, its grid, and its factors where it was trained as such.

    ``product`` is how a file stores these. A convolution's is the matrix of its patches, ``taps`` to a channel.
    """

    site: str
    shape: KroneckerShape
    W: Array
    factors: Factors | None = None
    evaluation: Evaluation = "materialize"
    product: Product | None = None
    taps: int = 1

    @property
    def evaluated(self) -> Evaluated | None:
        """What ``factors`` means for it."""
        return None if self.factors is None else Evaluated(self.factors.rank, self.evaluation, self.taps)

    @property
    def T(self) -> KnownWeight:
        """The same of ``W^T``, to store it: nobody said how to evaluate that."""
        return KnownWeight(self.site, self.shape.T, self.W.T, product=self.product.T if self.product else None)


@dataclass(frozen=True)
class PlacedWeight:
    """A known weight and the constant that holds it; one that no linear map reads is stored like a layer's all the
    same."""

    origin: KnownWeight
    constant: Constant

    @property
    def value(self) -> ir.Value:
        """The constant in the graph."""
        return self.constant.value

    def moved(self, graph: ir.Graph) -> PlacedWeight:
        """The same of a clone of the graph."""
        value = graph.initializers[self.value.name or ""]
        return replace(self, constant=replace(self.constant, value=value))

    @cached_property
    def survivors(self) -> Survivors:
        """The surviving blocks of ``W``."""
        return survivors(self.constant.array, self.origin.shape)

    @cached_property
    def storage(self) -> Storage | None:
        """How a file keeps it; None where as it is."""
        return fewest_bytes(self.survivors, self.origin.product)


def placed(graph: ir.Graph, weights: Sequence[KnownWeight]) -> dict[ir.Value, PlacedWeight]:
    """The constants that hold known weights: by value; else, one nobody else claims, by their pattern of zero blocks or
    their name.

    What was rescaled on the way (a batch norm fused into it) is recognized so, and has no factors any more.
    """
    constants = Weights(graph.initializers.values())
    places: dict[ir.Value, PlacedWeight] = {}
    missing = []
    for weight in weights:
        equal = constants.equal(weight.W)
        for constant in equal:
            places.setdefault(constant.value, PlacedWeight(weight, constant))
        if not equal:
            missing.append(weight)
    for weight in missing:
        mask = survivors(weight.W, weight.shape).mask
        alike = () if mask.all() else constants.alike(mask, weight.shape)
        own = constants.called(weight.site, (weight.W.shape[0], weight.W.shape[1]))
        rescaled = replace(weight, factors=None, product=None)
        free = (constant for constant in chain(alike, own) if constant.value not in places)
        for constant in islice(free, 1):
            places[constant.value] = PlacedWeight(rescaled, constant)
    return places
