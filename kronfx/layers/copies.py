"""Deep copies of models: torch copies only leaves of the autograd graph, and of parameters only their values."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from kronfx.layers.closures import rebind


def deep_copy(model: nn.Module) -> nn.Module:
    """``copy.deepcopy(model)``, with the values of what its modules hold besides parameters and buffers, with the marks
    and gradient hooks of its parameters, and with functions that close over its own modules.

    Such values are the weights that ``weight_norm``, ``spectral_norm`` and pruning compute before each call, and
    activations that a forward kept. A copy has no part in the computation they come from. Raises whatever
    ``copy.deepcopy`` does.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    computed = {id(x): x.detach().clone() for x in held if isinstance(x, Tensor) and not x.is_leaf}
    copied = copy.deepcopy(model, computed)
    rebind(copied, model)
    for ours, theirs in zip(copied.parameters(), model.parameters()):
        vars(ours).update(vars(theirs))
        for hook in (theirs._backward_hooks or {}).values() if ours.requires_grad else ():
            ours.register_hook(hook)
    return copied
