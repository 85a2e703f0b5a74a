"""From folded layers to layers that hold torch's block compressed sparse rows (BSR)."""

from __future__ import annotations

from torch import nn

from kronfx.errors import FoldError
from kronfx.graph.swap import copied, swap
from kronfx.layers import full_precision, kronecker_layers, named_modules, released, require_module, site_name
from kronfx.layers.bsr import BsrLinear

# In evaluation mode their forward hands their children's weights to one fused operator, which takes dense ones only.
READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@full_precision()
def to_bsr(folded: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Let every folded linear layer hold, and compute with, the surviving blocks of its weight only.

    The way to run and to fine-tune a folded model in PyTorch: at 90% zero blocks both are several times as fast as with
    dense layers, and zero blocks stay zero, which those of a folded model do not. The ``weight`` of such a layer is a
    ``torch.sparse_bsr`` tensor of its block grid; outputs are those of the folded model. Convolutions, stacks
    of experts, padded layers and weights that their owners read themselves (``nn.MultiheadAttention``,
    ``nn.TransformerEncoderLayer``) stay dense. The model passed in is left untouched unless ``inplace=True``. Export
    and save the folded model, not this one. Raises FoldError.
    """
    require_module(folded, FoldError)
    layers = _convertible(folded)
    if not layers:
        found = "factored layers that are not folded yet" if kronecker_layers(folded) else "no folded linear layer"
        remedy = "fold the factorized model first: to_bsr(fold(model))"
        raise FoldError("", f"{found} in this model", "a model that kronfx.fold returned", remedy)
    for name, layer in layers.items():
        if layer.weight.is_meta:
            where = f"{name} ({layer.out_features}x{layer.in_features})"
            raise FoldError(where, "a weight on the meta device", "values to look for zero blocks in", "load it first")
    model = folded if inplace else copied(folded, FoldError)
    return swap(model, {layer: BsrLinear(layer) for layer in _convertible(model).values()})


def _convertible(model: nn.Module) -> dict[str, nn.Linear]:
    """Folded linear layers that are called, by the names of their sites."""
    read = {child for owner in model.modules() if isinstance(owner, READERS) for child in owner.children()}
    return {
        site_name(path): module
        for path, module in named_modules(model)
        if isinstance(module, nn.Linear) and module not in read and _fits(module)
    }


def _fits(layer: nn.Linear) -> bool:
    """Folded, and on no padded grid: torch's format has no blocks that reach beyond the matrix."""
    folded = released(layer).get("weight")
    return folded is not None and tuple(folded.weight.shape) == (folded.shape.m, folded.shape.n)
