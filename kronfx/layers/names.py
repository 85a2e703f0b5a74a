"""The user's names of the modules of a model, whatever wraps it or parts of it.

``torch.compile``, ``DistributedDataParallel``, averages, checkpointing and Fabric hold the user's module in a child of
theirs, and its name gets between the user's own: ``module.fc``, ``blocks.0._orig_mod.fc``. What is kept on disk, in a
state, a plan or a report must not depend on what a model is wrapped in at that moment, so those atoms are left out.
``module`` is a name that people give as well: it is left out of torch's own wrappers only.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

PRIVATE = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
HOLDERS = (DataParallel, DistributedDataParallel, AveragedModel)  # and these call it ``module``


def named_modules(
    model: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """``model.named_modules()`` by the user's names; a wrapper has the name of what it wraps, and comes first."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield prefix, model
    inner = wrapped(model)
    if inner is not None:
        yield from named_modules(inner, prefix, seen)
    for name, child in model.named_children():
        if child is not inner:
            yield from named_modules(child, _joined(prefix, name), seen)


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """``model.named_parameters()`` by the user's names; one that several modules share comes once, first name first."""
    seen = set[nn.Parameter]()
    for path, module in named_modules(model):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield _joined(path, name), parameter


def wrapped(module: nn.Module) -> nn.Module | None:
    """The user's module in a wrapper; None where the module is none."""
    if isinstance(module, HOLDERS):
        return module.module
    return next((module._modules[name] for name in PRIVATE if name in module._modules), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model itself, out of all that wraps it as a whole."""
    inner = wrapped(model)
    return model if inner is None else unwrapped(inner)


def user_name(model: nn.Module, path: str) -> str:
    """The path of a module, parameter or buffer of ``model`` as the user's own model has it.

    Some wrappers leave themselves out of their ``state_dict`` already: an atom may be that of what they wrap.
    """
    here: nn.Module | None = model
    kept = []
    for atom in path.split("."):
        while here is not None and atom not in here._modules and wrapped(here) is not None:
            here = wrapped(here)
        child = None if here is None else here._modules.get(atom)
        if child is None or here is None or child is not wrapped(here):
            kept.append(atom)
        here = child
    return ".".join(kept)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
