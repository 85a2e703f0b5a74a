"""Deep copies of models: torch copies only leaves of the autograd graph, and of parameters only their values."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def deep_copy(model: nn.Module) -> nn.Module:
    """``copy.deepcopy(model)``, with the values of what its modules hold besides parameters and buffers, and with the
    marks and gradient hooks of its parameters.

    Such values are the weights that ``weight_norm``, ``spectral_norm`` and pruning compute before each call, and
    activations that a forward kept. A copy has no part in the computation they come from. Raises whatever
    ``copy.deepcopy`` does.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    computed = {id(x): x.detach().clone() for x in held if isinstance(x, Tensor) and not x.is_leaf}
    copied = copy.deepcopy(model, computed)
    for ours, theirs in zip(copied.parameters(), model.parameters()):
        vars(ours).update(vars(theirs))
        for hook in (theirs._backward_hooks or {}).values():
            ours.register_hook(hook)
    return copied
