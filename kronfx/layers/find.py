"""The rewritten layers of a model, by the names of their sites."""

from __future__ import annotations

from torch import nn

from kronfx.errors import KronfxError
from kronfx.layers.candidates import CHILD, FactoredLayer, KroneckerCandidates
from kronfx.layers.folded import BlockSparseConv, BlockSparseLinear, FoldedWeight, released
from kronfx.layers.linear import Factors, KroneckerLinear
from kronfx.layers.names import named_modules

FOLDED = (BlockSparseLinear, BlockSparseConv)


def site_name(path: str) -> str:
    """A site's name from the path of its weight or of its factored layer: ``"encoder.fc1.weight" -> "encoder.fc1"``."""
    atoms = [atom for atom in path.removesuffix(".weight").split(".") if atom != CHILD]
    return ".".join(atoms) or "weight"


def factored_sites(model: nn.Module) -> dict[str, FactoredLayer]:
    """What stands at every factored site, by its name: a factored layer, or candidates for one."""
    found: dict[str, FactoredLayer] = {}
    candidates: set[nn.Module] = set()
    for path, module in named_modules(model):
        if isinstance(module, KroneckerCandidates):
            candidates.update(module.candidates)
        if isinstance(module, (KroneckerLinear, KroneckerCandidates)) and module not in candidates:
            found[site_name(path)] = module
    return found


def kronecker_layers(model: nn.Module) -> dict[str, KroneckerLinear]:
    """Every factored layer of a model, convolutions and stacks too, by the name of its site; candidates for a site
    ``fc`` are layers of their own, ``fc.0``, ``fc.1``, ..., whose weights add up.
    """
    return {site_name(path): m for path, m in named_modules(model) if isinstance(m, KroneckerLinear)}


def folded_layers(model: nn.Module) -> dict[str, FoldedWeight]:
    """Every folded weight of a model by the name of its site."""
    found: dict[str, FoldedWeight] = {}
    for path, module in named_modules(model):
        for name, weight in released(module).items():
            found[site_name(path if name == "weight" else f"{path}.{name}".removeprefix("."))] = weight
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


def require_module(value: object, error: type[KronfxError]) -> None:
    """Raise ``error`` where a model was asked for and something else came."""
    if not isinstance(value, nn.Module):
        raise error(
            "",
            f"a {type(value).__name__} where the model belongs",
            "a torch.nn.Module",
            "pass the model itself",
        )
