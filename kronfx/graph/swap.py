"""Put modules in the place of others, everywhere the others stand, and let them inherit what users hung on them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from kronfx.errors import KronfxError
from kronfx.graph.references import follow
from kronfx.layers import deep_copy

# Shared, not copied: what ``register_*`` returned takes its hook out of the very dict that it was put into.
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("hooks") or "hooks_" in name)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What a module has from its constructor; everything else in its ``__dict__`` a user put there.
_OWN = {"grid", "transposed", "rank", "evaluation", "stack", "features", "energy", "convolution"}.union(
    ("predicted_seconds", "measured_seconds", "skipping"),
    vars(nn.Linear(1, 1, device="meta")),
    *(vars(kind(1, 1, 1, device="meta")) for kind in _CONVOLUTIONS),
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
    """Mode, hooks and whatever a user hung on ``old`` pass to ``new``."""
    new.train(old.training)
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook
    marks = {name: value for name, value in vars(old).items() if name not in _OWN and not hasattr(type(new), name)}
    vars(new).update(marks)


def swap(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace each key by its value wherever ``root`` holds it; returns the root, replaced or not."""
    for old, new in replacements.items():
        inherit(new, old)
    return follow(root, replacements)
