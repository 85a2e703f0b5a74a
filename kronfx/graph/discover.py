"""Model -> sites: every weight of two or more dimensions, either a linear map that can be rewritten or refused with a
reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from kronfx.graph.normalize import Linear, canonical, transposes
from kronfx.graph.source import ASKING, LinearUse, linear_use
from kronfx.graph.trace import Untraceable, trace_owner
from kronfx.graph.unfit import surroundings, unfit, unread
from kronfx.layers import Convolution, KroneckerLinear, named_modules, site_name
from kronfx.records import Refusal, Site


@dataclass(frozen=True, slots=True)
class Match:
    """A linear map in its owner, and the way in: a node of the owner's ``graph``, or, where ``linear`` is None, the
    owner's attribute ``target``, which becomes a property (``adopted`` says how it is stored)."""

    site: Site
    owner: nn.Module
    target: str
    parameter: nn.Parameter
    graph: fx.GraphModule | None = None
    linear: Linear | None = None
    adopted: LinearUse | None = None

    @property
    def matrix(self) -> Tensor:
        """The dense weight as the site counts it: ``[m, n]``, ``[stack, m, n]``, or a kernel unrolled."""
        if self.linear is not None and self.linear.convolution is not None:
            return self.parameter.flatten(1)
        turned = (
            self.adopted.transposed if self.adopted is not None else self.linear is not None and self.linear.transposed
        )
        return self.parameter.mT if turned else self.parameter

    @property
    def convolution(self) -> Convolution | None:
        """What kind of convolution it is, if it is one."""
        if self.linear is None or self.linear.convolution is None:
            return None
        return replace(self.linear.convolution, kernel=tuple(self.parameter.shape[2:]))

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, where the linear node reads one straight from a parameter."""
        node = self.linear.bias if self.linear is not None else None
        if node is None or node.op != "get_attr" or self.graph is None:
            return None
        value = attribute(self.graph, str(node.target))
        return value if isinstance(value, nn.Parameter) else None

    @property
    def is_whole_owner(self) -> bool:
        """True when the owner does nothing but this linear map (``nn.Linear`` and whatever keeps its forward)."""
        if self.linear is None or self.graph is None or self.owner is self.graph:
            return False
        if self.linear.transposed or self.target != "weight":  # the layer answers ``weight [m, n]``
            return False
        linear = self.linear
        spelled = {n for n in (linear.x, linear.weight, linear.bias, linear.node) if n is not None}
        others = [n for n in self.graph.graph.nodes if n not in spelled and n.op != "output"]
        return (
            not others
            and linear.x.op == "placeholder"
            and self.graph.graph.output_node().args[0] is linear.node
            and (linear.bias is None or self.bias is not None)
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


def discover(model: nn.Module, untie: bool = False) -> Discovery:
    """Look at every weight of the model once; touches no value, so models on the meta device do as well.

    ``untie`` accepts that a weight which several modules share becomes one weight each.
    """
    weights = list(_weights(model))
    tied, around = {} if untie else _tied(weights), surroundings(model)
    holders: dict[nn.Parameter, list[str]] = {}
    for weight in weights:
        holders.setdefault(weight.parameter, []).append(weight.path)
    graphs: dict[int, fx.GraphModule | Untraceable] = {}
    matches: list[Match] = []
    refusals: list[Refusal] = []
    for weight in weights:
        found: Match | str | None = _unfit(weight, tied, around)
        if found is None:
            if id(weight.owner) not in graphs:
                graphs[id(weight.owner)] = trace_owner(weight.owner)
            found = _match(weight, graphs[id(weight.owner)])
        if isinstance(found, Match):
            matches.append(_sharing(found, holders[weight.parameter]))
        else:
            dims = () if _is_lazy(weight.parameter) else tuple(weight.parameter.shape)
            refusals.append(Refusal(site_name(weight.path), type(weight.owner).__name__, dims, str(found)))
    for path, module in named_modules(model):
        if isinstance(module, KroneckerLinear):
            dims = (module.out_features, module.in_features)
            refusals.append(Refusal(site_name(path), type(module).__name__, dims, "already factored"))
    return Discovery(tuple(_one_way_an_owner(matches)), tuple(refusals))


def _one_way_an_owner(matches: list[Match]) -> Iterator[Match]:
    """An owner is retraced or keeps its forward, not both: where one of its weights is adopted, all are."""
    adopting = {match.owner for match in matches if match.adopted is not None}
    for match in matches:
        if match.linear is None or match.owner not in adopting:
            yield match
            continue
        use = LinearUse(match.linear.transposed)
        site = replace(match.site, formed=True)
        yield replace(match, site=site, graph=None, linear=None, adopted=use)


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


def _match(weight: _Weight, graph: fx.GraphModule | Untraceable) -> Match | str:
    """The one linear map that reads this weight in its owner's graph, else its adoption, or why there is neither."""
    if isinstance(graph, Untraceable):
        return _adoption(weight, graph.reason)
    reads = [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    users = [use for read in reads for user in read.users for use in (user.users if transposes(user) else (user,))]
    if not users:
        return unread(weight.owner)
    if len(users) > 1:
        reason = f"used {len(users)} times in its owner's forward: one set of factors could not serve each use"
        return _adoption(weight, reason) if any(map(_asks, users)) else reason
    linear = canonical(users[0])
    if isinstance(linear, str):
        return linear
    dims = weight.parameter.ndim
    fits = linear is not None and linear.weight in reads and (dims == 2) == (linear.convolution is None)
    if linear is None or not fits:
        reason = f"read by {_operation(users[0])}, which is no linear map that kronfx rewrites"
        return _adoption(weight, reason)
    match = Match(_site(weight, linear), weight.owner, weight.target, weight.parameter, graph, linear)
    if match.is_whole_owner:
        return replace(match, site=replace(match.site, kind=type(weight.owner).__name__))
    return match


def _site(weight: _Weight, linear: Linear) -> Site:
    m, n, *kernel = weight.parameter.shape
    if linear.transposed:
        m, n = n, m
    taps = math.prod(kernel)
    return Site(site_name(weight.path), linear.spelling, m, n * taps, _dtype(weight), taps=taps)


def _adoption(weight: _Weight, reason: str) -> Match | str:
    """The weight as a property of its owner, where the owner's source uses it as a matrix and as nothing else; a reason
    not to, the other use where there is one."""
    if isinstance(weight.owner, fx.GraphModule) or weight.parameter.ndim not in (2, 3):
        return reason
    use = linear_use(weight.owner, weight.target)
    if use is None:
        return reason
    if isinstance(use, str):
        return f"its owner uses it in `{use}`, which is no linear map that kronfx rewrites"
    *stack, m, n = weight.parameter.mT.shape if use.transposed else weight.parameter.shape
    name, kind = site_name(weight.path), type(weight.owner).__name__
    site = Site(name, kind, m, n, _dtype(weight), stack=math.prod(stack), formed=True)
    return Match(site, weight.owner, weight.target, weight.parameter, adopted=use)


def _dtype(weight: _Weight) -> str:
    return str(weight.parameter.dtype).removeprefix("torch.")


def _asks(node: fx.Node) -> bool:
    """True for a node that reads what a tensor is, not what it holds."""
    return node.op == "call_function" and node.target is getattr and node.args[1] in ASKING


def _operation(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
