"""Model -> sites: every weight of two or more dimensions, either a linear map that can be rewritten or refused with a
reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from kronfx.graph.known import convolution_of, is_known
from kronfx.graph.match import Match, NodeMatch, OwnerMatch, WeightMatch
from kronfx.graph.normalize import Linear, canonical, transposes
from kronfx.graph.source import ASKING, linear_use
from kronfx.graph.trace import Untraceable, trace_owner
from kronfx.graph.twin import twins
from kronfx.graph.unfit import surroundings, unfit, unread
from kronfx.layers import KroneckerLinear, kronecker_layers, named_modules, site_name
from kronfx.records import Refusal, Site


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


def discover(model: nn.Module, untie: bool = False) -> Discovery:
    """Look at every weight of the model once; touches no value, so models on the meta device do as well.

    ``untie`` accepts that a weight which several modules share becomes one weight each.
    """
    weights = list(_weights(model))
    tied, around = {} if untie else _tied(weights), surroundings(model)
    holders: dict[nn.Parameter, list[str]] = {}
    for weight in weights:
        holders.setdefault(weight.parameter, []).append(weight.path)
    traced = _Traces(model)
    matches: list[Match] = []
    refusals: list[Refusal] = []
    for weight in weights:
        found: Match | str | None = _unfit(weight, tied, around)
        if found is None:
            found = _known(weight) if is_known(weight.owner) else _match(weight, traced.of(weight.owner))
        if isinstance(found, Match):
            matches.append(_sharing(found, holders[weight.parameter]))
        else:
            dims = () if _is_lazy(weight.parameter) else tuple(weight.parameter.shape)
            refusals.append(Refusal(site_name(weight.path), type(weight.owner).__name__, dims, str(found)))
    for name, layer in kronecker_layers(model).items():
        dims = (layer.out_features, layer.in_features)
        refusals.append(Refusal(name, type(layer).__name__, dims, "already factored"))
    return Discovery(tuple(matches), tuple(refusals))


class _Traces:
    """What each owner's forward does, traced once, on a twin of the model that is made when the first is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._twins: dict[nn.Module, nn.Module] = {}
        self._graphs: dict[nn.Module, fx.Graph | Untraceable] = {}

    def of(self, owner: nn.Module) -> fx.Graph | Untraceable:
        """The graph of this owner's forward, or why there is none."""
        if owner not in self._graphs:
            self._twins = self._twins or twins(self._model)
            self._graphs[owner] = trace_owner(self._twins[owner])
        return self._graphs[owner]


def _weights(model: nn.Module) -> Iterator[_Weight]:
    """Every weight with its owner: the GraphModule that reads it by a dotted path, else the module it is on."""
    readers: dict[tuple[int, str], tuple[fx.GraphModule, str]] = {}
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            for target in (str(node.target) for node in module.graph.nodes if node.op == "get_attr"):
                holder, _, name = target.rpartition(".")
                readers[id(module.get_submodule(holder)), name] = module, target
    for prefix, module in named_modules(model):
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
        key = _address(weight.parameter) or id(weight.parameter)
        if key in first:
            tied[weight.path] = first[key]
            tied.setdefault(first[key], weight.path)
        first.setdefault(key, weight.path)
    return tied


def _address(parameter: nn.Parameter) -> int:
    """Where its values start; 0 of what has none there (meta, lazy, sparse, packed)."""
    plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided and not parameter.is_meta
    return parameter.data_ptr() if plain else 0


def _sharing(match: Match, paths: list[str]) -> Match:
    """With what the site says of the other names of its weight, if it has any."""
    if len(paths) == 1:
        return match
    return replace(match, site=replace(match.site, shared=site_name(paths[0]), sharers=len(paths)))


def _unfit(weight: _Weight, tied: Mapping[str, str], around: Mapping[nn.Module, str]) -> str | None:
    """What is wrong with the weight itself, before anyone looks at how it is used."""
    reason = unfit(weight.owner, weight.target, weight.parameter, around)
    if reason is None and weight.path in tied:
        return f"tied to {tied[weight.path]}: factors of one would not be the other's (untie=True accepts that)"
    return reason


def _known(weight: _Weight) -> Match:
    """A module that is nothing but this linear map."""
    convolution = convolution_of(weight.owner)
    site = _site(weight, type(weight.owner).__name__, False, convolution is not None)
    return OwnerMatch(site, weight.owner, weight.target, weight.parameter, convolution=convolution)


def _match(weight: _Weight, graph: fx.Graph | Untraceable) -> Match | str:
    """The one linear map that reads this weight in its owner's forward, as the trace or else the source has it; or why
    there is none."""
    if isinstance(graph, Untraceable):
        return _by_source(weight, graph.reason)
    reads = [n for n in graph.nodes if n.op == "get_attr" and n.target == weight.target]
    users = [use for read in reads for user in read.users for use in (user.users if transposes(user) else (user,))]
    if not users:
        return unread(weight.owner)
    if len(users) > 1:
        reason = f"used {len(users)} times in its owner's forward: one set of factors could not serve each use"
        return _by_source(weight, reason) if any(map(_asks, users)) else reason
    linear = canonical(users[0])
    if isinstance(linear, str):
        return linear
    dims = weight.parameter.ndim
    fits = linear is not None and linear.weight in reads and (dims == 2) == (linear.convolution is None)
    if linear is None or not fits:
        reason = f"read by {_operation(users[0])}, which is no linear map that kronfx rewrites"
        return _by_source(weight, reason)
    return _traced(weight, linear)


def _traced(weight: _Weight, linear: Linear) -> Match:
    owner, convolution = weight.owner, linear.convolution
    kind = type(owner).__name__ if isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)) else linear.spelling
    site = _site(weight, kind, linear.transposed, convolution is not None)
    if convolution is not None:
        convolution = replace(convolution, kernel=tuple(weight.parameter.shape[2:]))
    place = weight.target, weight.parameter, linear.transposed, convolution
    if isinstance(owner, fx.GraphModule):
        return NodeMatch(site, owner, *place, node=linear.node)
    return WeightMatch(site, owner, *place)


def _by_source(weight: _Weight, reason: str) -> Match | str:
    """What the owner's source says, where it uses the weight as a matrix and as nothing else; a reason not to, the
    other use where there is one."""
    if isinstance(weight.owner, fx.GraphModule) or weight.parameter.ndim not in (2, 3):
        return reason
    use = linear_use(weight.owner, weight.target)
    if use is None:
        return reason
    if isinstance(use, str):
        return f"{use}, which is no linear map that kronfx rewrites"
    site = _site(weight, type(weight.owner).__name__, use.transposed, False)
    return WeightMatch(site, weight.owner, weight.target, weight.parameter, use.transposed)


def _site(weight: _Weight, kind: str, transposed: bool, is_convolution: bool) -> Site:
    parameter, name = weight.parameter, site_name(weight.path)
    if is_convolution:
        m, channels, *kernel = parameter.shape
        taps = math.prod(kernel)
        return Site(name, kind, m, channels * taps, _dtype(weight), taps=taps)
    *stack, m, n = parameter.mT.shape if transposed else parameter.shape
    return Site(name, kind, m, n, _dtype(weight), stack=math.prod(stack))


def _dtype(weight: _Weight) -> str:
    return str(weight.parameter.dtype).removeprefix("torch.")


def _asks(node: fx.Node) -> bool:
    """True for a node that reads what a tensor is, not what it holds."""
    return node.op == "call_function" and node.target is getattr and node.args[1] in ASKING


def _operation(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
