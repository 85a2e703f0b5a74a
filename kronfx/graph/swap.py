"""Put modules in the place of others, everywhere the others stand, and let them inherit what users hung on them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from kronfx.errors import KronfxError
from kronfx.layers import deep_copy

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def copied(model: nn.Module, error: type[KronfxError]) -> nn.Module:
    """A deep copy of the model. Raises ``error`` where it has none (a model in FSDP2's shards, say)."""
    try:
        return deep_copy(model)
    except Exception as cause:  # a model may hold anything
        found = f"a model that copy.deepcopy cannot copy ({cause})"
        remedy = "gather its state into a fresh model first (or pass inplace=True, where that is an option)"
        raise error("", found, "a model that copies", remedy) from cause


def inherit(new: nn.Module, old: nn.Module) -> None:
    """Mode and hooks of ``old`` pass to ``new``."""
    new.train(old.training)
    for name in _HOOKS:
        getattr(new, name).update(getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook


def swap(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace each key by its value wherever a module under ``root`` holds it; returns the root, replaced or not."""
    for old, new in replacements.items():
        inherit(new, old)
    parents = {module for top in (root, *replacements.values()) for module in top.modules()}
    for parent in parents:
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(root, root)
