"""The calibration batches, run through a model while its maps are watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from kronfx.compress.maps import Map
from kronfx.compress.record import Record
from kronfx.compress.watch import Watch
from kronfx.distance import main_output
from kronfx.errors import PruneError, reason
from kronfx.layers import evaluating
from kronfx.progress import bar

Loss = Callable[[nn.Module, Any], Tensor]
SHOWN = "the keyword loss= says how a batch becomes a loss: loss=lambda model, batch: ..."


def listed(batches: Iterable[Any]) -> list[Any]:
    """All batches, which are read more than once. Raises PruneError where there is none."""
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        found = f"batches of type {type(batches).__name__}"
        raise PruneError("", found, "an iterable of batches", "put what the model takes into a list")
    found_all = list(batches)
    if not found_all:
        spent = " (a generator is read once: it may have been used up)" if isinstance(batches, Iterator) else ""
        raise PruneError("", f"no batch{spent}", "calibration data", "pass a list of batches, or a fresh generator")
    return found_all


@contextmanager
def measured(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, its parameters fixed, and run by torch itself rather than compiled; after, as it
    was."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with evaluating(model), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def answered(model: nn.Module, batch: Any) -> Any:
    """What the model answers to a batch: a tensor, a tuple of arguments or a dict of keyword arguments.

    Raises PruneError.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = tree_map_only(Tensor, lambda value: value.to(device), dict(batch) if _is_mapping(batch) else batch)
    try:
        if isinstance(batch, dict):
            return model(**batch)
        return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    except Exception as error:  # a forward may do anything
        remedy = f"pass what the model itself is called with (a tensor, a tuple, a dict); {SHOWN}"
        raise PruneError(
            "", f"a batch that the model does not take ({reason(error)})", "one it takes", remedy
        ) from error


def ran(model: nn.Module, batch: Any, loss: Loss | None) -> None:
    """Run the model on a batch, as the loss does where there is one. Raises PruneError."""
    if loss is None:
        answered(model, batch)
    else:
        _returned(loss, model, batch)


def _is_mapping(batch: Any) -> bool:
    return isinstance(batch, Mapping)  # transformers' batches are such, and no dicts


class Fisher:
    """The scalar whose gradients say what an output is worth: the user's loss, or without one the model's outputs times
    noise, whose gradients have the second moments of the outputs' Jacobian: no labels are needed.
    """

    def __init__(self, loss: Loss | None, seed: int) -> None:
        self._loss = loss
        self._generator = torch.Generator().manual_seed(seed)
        self.source = "the loss passed" if loss is not None else ""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar of one batch. Raises PruneError."""
        if self._loss is not None:
            return called(self._loss, model, batch)
        answer = answered(model, batch)
        own = getattr(answer, "loss", None)
        outputs = own if isinstance(own, Tensor) else output_of(answer)
        if not outputs.requires_grad:
            found = f"a model whose first output has no gradient ({_kind(outputs)})"
            remedy = f"{SHOWN}; or choose how='energy', which needs none"
            raise PruneError("", found, "outputs to weigh by", remedy)
        if outputs.dim() == 0:
            self.source = "the model's own loss"
            return outputs
        self.source = "noise on the model's outputs"
        noise = torch.randn(outputs.shape, generator=self._generator).to(outputs)
        return (outputs * noise).sum()


def called(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """The loss of a batch, to be differentiated. Raises PruneError."""
    value: Any = _returned(loss, model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise PruneError("", f"loss= that returns {_kind(value)}", "a scalar tensor", "return the mean over the batch")
    if not value.requires_grad:
        needed = "a tensor computed from the model's outputs"
        raise PruneError(
            "", "loss= that returns a tensor without a gradient", needed, "leave out detach, item, no_grad"
        )
    return value.reshape(())


def _kind(value: object) -> str:
    return f"a tensor of {value.numel()} entries" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _returned(loss: Loss, model: nn.Module, batch: Any) -> Any:
    try:
        return loss(model, batch)
    except PruneError:
        raise
    except Exception as error:  # the user's function
        found = f"a batch on which loss= stops ({reason(error)})"
        raise PruneError("", found, "a loss of every batch", "try loss(model, batch) by itself") from error


def output_of(answer: Any) -> Tensor:
    """Its main output. Raises PruneError."""
    found = main_output(answer)
    if found is None:
        raise PruneError("", f"a model that returns no tensor of floats ({type(answer).__name__})", "outputs", SHOWN)
    return found


def observe(model: nn.Module, maps: Sequence[Map], batches: Sequence[Any], fisher: Fisher | None) -> list[Record]:
    """Run the batches; the record of every map. With ``fisher`` there is a backward pass. Raises PruneError."""
    records = [Record(subject) for subject in maps]
    by_parameter = {record.map.parameter: record for record in records}
    with measured(model), bar("calibration", len(batches)) as begin:
        for number, batch in enumerate(batches, 1):
            begin(f"batch {number}")
            with ExitStack() as forward:
                forward.enter_context(torch.set_grad_enabled(fisher is not None))
                forward.enter_context(Watch(by_parameter))
                scalar = answered(model, batch) if fisher is None else fisher(model, batch)
            if fisher is not None:
                scalar.backward()
    claimed = Counter(record.bias for record in records)
    for record in records:
        if claimed[record.bias] > 1:
            record.drop_bias()
        if not all(moments.is_finite for moments in record.moments):
            found = "NaN or infinite inputs or gradients in the calibration batches"
            raise PruneError(record.map.site.label, found, "finite ones", "look for the batch that the model fails on")
    return records
