"""Model -> sites: every weight of two or more dimensions, either a linear map that can be rewritten or refused with a
reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from kronfx.graph.normalize import Linear, canonical
from kronfx.graph.trace import Untraceable, trace_owner
from kronfx.layers import KroneckerLinear, site_name
from kronfx.records import Refusal, Site

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Match:
    """A linear map in its owner: ``owner`` is in the model, ``graph`` is its trace, ``linear`` a node of that graph."""

    site: Site
    owner: nn.Module
    graph: fx.GraphModule
    linear: Linear

    @property
    def weight(self) -> Tensor:
        """The dense weight ``[m, n]``."""
        return attribute(self.graph, str(self.linear.weight.target))

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, where the linear node reads one straight from a parameter."""
        node = self.linear.bias
        value = attribute(self.graph, str(node.target)) if node is not None and node.op == "get_attr" else None
        return value if isinstance(value, nn.Parameter) else None

    @property
    def is_whole_owner(self) -> bool:
        """True when the owner does nothing but this linear map (``nn.Linear`` and whatever keeps its forward)."""
        spelled = {n for n in (self.linear.x, self.linear.weight, self.linear.bias, self.linear.node) if n is not None}
        others = [n for n in self.graph.graph.nodes if n not in spelled and n.op != "output"]
        output = self.graph.graph.output_node().args[0]
        return (
            self.owner is not self.graph
            and not others
            and self.linear.x.op == "placeholder"
            and output is self.linear.node
            and (self.linear.bias is None or self.bias is not None)
            and not any(True for _ in self.owner.children())
        )


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a model is made of, for the planner (sites, refusals) and for the pass (matches)."""

    matches: tuple[Match, ...]
    refusals: tuple[Refusal, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that can be rewritten, in the model's own order."""
        return tuple(match.site for match in self.matches)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A parameter of two or more dimensions, in the module whose graph may read it."""

    path: str
    target: str
    parameter: nn.Parameter
    owner: nn.Module


def attribute(root: nn.Module, target: str) -> Tensor:
    """``root.a.b.c`` for ``"a.b.c"``."""
    value: object = root
    for atom in target.split("."):
        value = getattr(value, atom)
    return cast(Tensor, value)


def discover(model: nn.Module) -> Discovery:
    """Look at every weight of the model once; touches no value, so models on the meta device do as well."""
    weights = list(_weights(model))
    tied = _tied(weights)
    graphs: dict[int, fx.GraphModule | Untraceable] = {}
    matches: list[Match] = []
    refusals: list[Refusal] = []
    for weight in weights:
        reason = _unfit(weight, tied)
        if reason is None:
            if id(weight.owner) not in graphs:
                graphs[id(weight.owner)] = trace_owner(weight.owner)
            found = _match(weight, graphs[id(weight.owner)])
            if isinstance(found, Match):
                matches.append(found)
                continue
            reason = found
        dims = () if _is_lazy(weight.parameter) else tuple(weight.parameter.shape)
        refusals.append(Refusal(site_name(weight.path), type(weight.owner).__name__, dims, reason))
    for path, module in model.named_modules():
        if isinstance(module, KroneckerLinear):
            dims = (module.out_features, module.in_features)
            refusals.append(Refusal(site_name(path), type(module).__name__, dims, "already factored"))
    return Discovery(tuple(matches), tuple(refusals))


def _weights(model: nn.Module) -> Iterator[_Weight]:
    """Every weight with its owner: the GraphModule that reads it by a dotted path, else the module it is on."""
    readers: dict[tuple[int, str], tuple[fx.GraphModule, str]] = {}
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            for target in (str(node.target) for node in module.graph.nodes if node.op == "get_attr"):
                holder, _, name = target.rpartition(".")
                readers[id(module.get_submodule(holder)), name] = module, target
    for prefix, module in model.named_modules():
        if isinstance(module, KroneckerLinear):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if _is_lazy(parameter) or parameter.ndim >= 2:
                owner, target = readers.get((id(module), name), (module, name))
                yield _Weight(f"{prefix}.{name}" if prefix else name, target, parameter, owner)


def _is_lazy(parameter: nn.Parameter) -> bool:
    return nn.parameter.is_lazy(parameter)


def _tied(weights: list[_Weight]) -> dict[str, str]:
    """Path of each weight that another path shares -> that other path. Equal start addresses count as shared."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for weight in weights:
        address = 0 if _is_lazy(weight.parameter) or weight.parameter.is_meta else weight.parameter.data_ptr()
        key = address or id(weight.parameter)
        if key in first:
            tied[weight.path] = first[key]
            tied.setdefault(first[key], weight.path)
        first.setdefault(key, weight.path)
    return tied


def _unfit(weight: _Weight, tied: dict[str, str]) -> str | None:
    """What is wrong with the weight itself, before anyone looks at how it is used."""
    if _is_lazy(weight.parameter):
        return "uninitialized: run one forward pass first"
    if weight.path in tied:
        return f"tied to {tied[weight.path]}: factors of one would not be the other's"
    if weight.parameter.dtype not in FLOATS:
        return f"dtype {str(weight.parameter.dtype).removeprefix('torch.')} is not a floating type kronfx computes in"
    return None


def _match(weight: _Weight, graph: fx.GraphModule | Untraceable) -> Match | str:
    """The one linear map that reads this weight in its owner's graph, or why there is none."""
    if isinstance(graph, Untraceable):
        return graph.reason
    reads = [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    users = [user for read in reads for user in read.users]
    found = [linear for linear in map(canonical, users) if linear is not None and linear.weight in reads]
    if not users:
        return "its owner's forward never reads it"
    if len(users) > 1:
        return f"used {len(users)} times in its owner's forward: one set of factors could not serve each use"
    if not found or weight.parameter.ndim != 2:
        return f"read by {_operation(users[0])}, which is no linear map that kronfx rewrites"
    m, n = weight.parameter.shape
    name, dtype = site_name(weight.path), str(weight.parameter.dtype).removeprefix("torch.")
    match = Match(Site(name, found[0].spelling, m, n, dtype), weight.owner, graph, found[0])
    if match.is_whole_owner:
        return replace(match, site=replace(match.site, kind=type(weight.owner).__name__))
    return match


def _operation(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
