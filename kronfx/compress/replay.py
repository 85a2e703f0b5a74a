"""Forwards that run again and again, each time a little further: what is over for good answers from memory.

Once all maps in a module are set, and with them all that run before it, a batch gets the same from it at every forward.
So the second forward after that keeps what it answered, and later ones are handed a copy, without its running: setting
the maps of a deep model one after another takes time in proportion to its depth, not to the square of that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from kronfx.compress.maps import Map


class Replay:
    """One model, and what its finished modules answer to each batch: their outputs for all batches, in memory."""

    def __init__(self, model: nn.Module, maps: Collection[Map]) -> None:
        self.model = model
        self._left = {module: _within(module, maps) for module in model.modules() if module is not model}
        self._left = {module: inside for module, inside in self._left.items() if inside}
        self._over: list[nn.Module] = []
        self._answers: dict[tuple[nn.Module, int], Any] = {}

    def finish(self, maps: Collection[Map]) -> None:
        """These are set: modules that hold no other are over, and what they hold is no longer asked."""
        for inside in self._left.values():
            inside.difference_update(maps)
        over = [module for module, inside in self._left.items() if not inside]
        held = {inner for module in over for inner in module.modules() if inner is not module}
        self._over = [module for module in over if module not in held]
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] in self._over}

    @contextmanager
    def forward(self, batch: int) -> Iterator[None]:
        """A forward of this batch: modules that are over answer from memory, or are remembered."""
        handles, calls = [], dict.fromkeys(self._over, 0)
        replaced = {m: vars(m).get("forward") for m in self._over if (m, batch) in self._answers}
        try:
            for module in replaced:
                vars(module)["forward"] = self._answering(module, batch)
            for module in calls.keys() - replaced.keys():
                handles.append(module.register_forward_hook(self._remembering(batch, calls)))
            yield
        finally:
            for module, own in replaced.items():
                vars(module).pop("forward")
                if own is not None:
                    vars(module)["forward"] = own
            for handle in handles:
                handle.remove()
            for module, count in calls.items():
                if count > 1:  # which of its answers would be asked for?
                    self._answers.pop((module, batch), None)

    def _answering(self, module: nn.Module, batch: int) -> Callable[..., Any]:
        return lambda *_, **__: tree_map_only(Tensor, Tensor.clone, self._answers[module, batch])

    def _remembering(self, batch: int, calls: dict[nn.Module, int]) -> Callable[..., None]:
        def remember(module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[module] += 1
            self._answers[module, batch] = tree_map_only(Tensor, Tensor.clone, output)

        return remember


def _within(module: nn.Module, maps: Collection[Map]) -> set[Map]:
    """The maps whose owners are in a module, or it."""
    inside = set(module.modules())
    return {each for each in maps if each.owner in inside}
