"""The multiply-adds column: torch's own counter on the real forward, before and after the rewrite."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kronfx as kx
from kronfx.layers import factored_weights
from zoo.entry import Entry, Inputs, call
from zoo.outcome import Outcome

RANK = 2


def work(entry: Entry) -> Outcome:
    """The share that is left at rank 2 in training mode (torch does not count inside its fused inference kernels).

    Fails where the whole model, or an owner that kept its forward, does not do less than the dense one.
    """
    batch = entry.batch(4)
    dense, factored = entry.model().train(), kx.factorize(entry.model(), rank=RANK).train()
    before, after = _counted(dense, batch), _counted(factored, batch)
    keepers = [path for path, module in factored.named_modules() if factored_weights(module)]
    idle = [path for path in keepers if before[path] and after[path] >= before[path]]
    share = after[""] / before[""]
    if idle or share >= 1:
        return Outcome("fails", f"{share:.0%} of the dense model's; no fewer in {', '.join(idle) or 'the whole'}")
    return Outcome("holds", f"{share:.0%}")


def _counted(model: nn.Module, batch: Inputs) -> Counter[str]:
    """Operations by the paths of the modules that did them, ``""`` being all."""
    with FlopCounterMode(display=False) as counter:
        call(model, batch)
    root = f"{type(model).__name__}."
    counts = {path.removeprefix(root): sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    return Counter(counts) + Counter({"": counter.get_total_flops()})
