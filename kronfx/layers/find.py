"""The rewritten layers of a model, by the names of their sites."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from kronfx.errors import KronfxError
from kronfx.layers.adopted import KroneckerWeight
from kronfx.layers.candidates import CHILD, FactoredLayer, KroneckerCandidates
from kronfx.layers.factors import Factors
from kronfx.layers.folded import BlockSparseConv, BlockSparseLinear, FoldedWeight, released
from kronfx.layers.linear import KroneckerLinear
from kronfx.layers.names import wrapped

FOLDED = (BlockSparseLinear, BlockSparseConv)
_REWRITTEN = (KroneckerLinear, KroneckerCandidates, *FOLDED)


def site_name(path: str) -> str:
    """A site's name from the path of its weight: ``"encoder.fc1.weight" -> "encoder.fc1"``."""
    return path.removesuffix(".weight") or "weight"


def named_sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with the name that a site there has: its path, without the steps into wrappers and kronfx's own.

    What a module is decides, not what it is called: a user's child may be called ``kronecker`` or ``weight``. In a
    graph, a layer stands where the weight was that the graph read.
    """
    return ((name or "weight", module) for name, module in _named(model, "", set(), False))


def _named(module: nn.Module, name: str, seen: set[nn.Module], in_graph: bool) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield name, module
    inner = wrapped(module)
    if inner is not None:
        yield from _named(inner, name, seen, in_graph)
    in_graph = in_graph or hasattr(type(module), "recompile")
    for step, child in module.named_children():
        inside = isinstance(module, KroneckerCandidates) and step == CHILD
        path = name if inside else f"{name}.{step}".removeprefix(".")
        is_weight = isinstance(child, KroneckerWeight) or (in_graph and isinstance(child, _REWRITTEN))
        yield from _named(child, site_name(path) if is_weight else path, seen, in_graph)


def factored_sites(model: nn.Module) -> dict[str, FactoredLayer]:
    """What stands at every factored site, by its name: a factored layer, or candidates for one."""
    found: dict[str, FactoredLayer] = {}
    candidates: set[nn.Module] = set()
    for name, module in named_sites(model):
        if isinstance(module, KroneckerCandidates):
            candidates.update(module.candidates)
        if isinstance(module, (KroneckerLinear, KroneckerCandidates)) and module not in candidates:
            found[name] = module
    return found


def kronecker_layers(model: nn.Module) -> dict[str, KroneckerLinear]:
    """Every factored layer of a model, convolutions and stacks too, by the name of its site; candidates for a site
    ``fc`` are layers of their own, ``fc.0``, ``fc.1``, ..., whose weights add up.
    """
    return {name: module for name, module in named_sites(model) if isinstance(module, KroneckerLinear)}


def folded_layers(model: nn.Module) -> dict[str, FoldedWeight]:
    """Every folded weight of a model by the name of its site."""
    found: dict[str, FoldedWeight] = {}
    for path, module in _named(model, "", set(), False):
        for name, weight in released(module).items():
            found[(path if name == "weight" else f"{path}.{name}".removeprefix(".")) or "weight"] = weight
    return found


def factors(model: nn.Module) -> dict[str, Factors]:
    """The factors of every factored layer, by the name of its site: live tensors, so an edit is an edit.

    Where candidates of several block shapes stand side by side at a site ``fc``, they are ``fc.0``, ``fc.1``, ...
    """
    return {name: layer.factors for name, layer in kronecker_layers(model).items()}


def sparsity(model: nn.Module) -> tuple[int, int]:
    """``(zero blocks, blocks)`` over all factored and folded layers, counted on ``W``'s exactly-zero blocks."""
    layers: list[KroneckerLinear | FoldedWeight] = [*kronecker_layers(model).values(), *folded_layers(model).values()]
    return sum(layer.zero_blocks() for layer in layers), sum(layer.blocks for layer in layers)


def require_values(model: nn.Module, error: type[KronfxError]) -> None:
    """Raise ``error`` where a tensor of a model is on the meta device, save what accelerate brings in for a call."""
    for name, module in model.named_modules():
        if getattr(module, "_hf_hook", None) is None:
            for own, tensor in (*module.named_parameters(name, False), *module.named_buffers(name, False)):
                if tensor.is_meta:
                    raise error(own, "a tensor on the meta device, which holds no values", "real values",
                                "load the weights first")  # fmt: skip


def require_module(value: object, error: type[KronfxError]) -> None:
    """Raise ``error`` where a model was asked for and something else came."""
    if not isinstance(value, nn.Module):
        raise error(
            "",
            f"a {type(value).__name__} where the model belongs",
            "a torch.nn.Module",
            "pass the model itself",
        )
