"""A linear map in its owner. Owners are of three kinds, each with its own way to put a factored layer in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from kronfx.graph.references import follow
from kronfx.graph.rewrite import rewrite
from kronfx.graph.swap import swap
from kronfx.layers import Convolution, FactoredLayer, adopt
from kronfx.records import Site


@dataclass(frozen=True, slots=True)
class Edits:
    """What was put into a model and remains to be followed: modules and weights that others stand for wherever they
    are held, graphs to compile anew."""

    modules: dict[nn.Module, nn.Module] = field(default_factory=dict)
    weights: dict[nn.Parameter, nn.Module] = field(default_factory=dict)
    graphs: set[fx.GraphModule] = field(default_factory=set)

    def follow(self, model: nn.Module) -> nn.Module:
        """The model, in which nothing holds any more what others stand for."""
        for module in self.graphs:
            module.graph.lint()
            module.recompile()
        return follow(swap(model, self.modules), self.weights)


@dataclass(frozen=True, slots=True)
class Match(ABC):
    """A linear map: the ``parameter`` that ``owner`` has at ``target``, ``transposed`` where that is ``[..., n, m]``.

    ``convolution``: what kind of one it is, if it is one.
    """

    site: Site
    owner: nn.Module
    target: str
    parameter: nn.Parameter
    transposed: bool = False
    convolution: Convolution | None = None

    @abstractmethod
    def put(self, layer: FactoredLayer, edits: Edits) -> None:
        """Put the layer in, and note what has to follow."""

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias that passes to the layer; None where the owner goes on to add its own."""
        return None

    @property
    def replaced(self) -> tuple[object, ...]:
        """What nothing that runs may hold afterwards."""
        return (self.parameter,)

    @property
    def matrix(self) -> Tensor:
        """The dense weight as the site counts it: ``[m, n]``, ``[stack, m, n]``, or a kernel unrolled."""
        if self.convolution is not None:
            return self.parameter.flatten(1)
        return self.parameter.mT if self.transposed else self.parameter


@dataclass(frozen=True, slots=True)
class WeightMatch(Match):
    """The owner keeps its forward, and the weight that it reads becomes a factored one."""

    def put(self, layer: FactoredLayer, edits: Edits) -> None:
        """The owner's attribute answers by the layer's factors."""
        edits.weights[self.parameter] = adopt(self.owner, self.target, layer, self.transposed)


@dataclass(frozen=True, slots=True)
class OwnerMatch(Match):
    """The owner is this linear map and nothing else: it gives way to the layer."""

    def put(self, layer: FactoredLayer, edits: Edits) -> None:
        """The layer stands for the owner."""
        edits.modules[self.owner] = layer

    @property
    def bias(self) -> nn.Parameter | None:
        """The owner's."""
        return self.owner._parameters["bias"]

    @property
    def replaced(self) -> tuple[object, ...]:
        """The owner as well as its weight."""
        return self.parameter, self.owner

    @property
    def staying(self) -> WeightMatch:
        """The same with an owner that stays, for something else holds its weight."""
        return WeightMatch(self.site, self.owner, self.target, self.parameter, self.transposed, self.convolution)


@dataclass(frozen=True, slots=True)
class NodeMatch(Match):
    """The owner is an fx graph: its ``node`` gives way to a call of the layer."""

    owner: fx.GraphModule
    node: fx.Node = field(kw_only=True)

    def put(self, layer: FactoredLayer, edits: Edits) -> None:
        """The graph calls the layer."""
        rewrite(self.owner, self.node, layer)
        edits.graphs.add(self.owner)
