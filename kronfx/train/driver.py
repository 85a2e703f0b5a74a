"""What the trainer callbacks share: a BlockSparsity that lives as long as a training, its end, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kronfx.errors import TrainError
from kronfx.train.block_sparsity import BlockSparsity
from kronfx.train.schedules import Schedule, is_number
from kronfx.train.target import Target


class SparsityDriver:
    """Options first, the model when the training begins.

    ``strength`` (a schedule counts the optimizer's steps) and ``target`` are :class:`BlockSparsity`'s. At the share
    ``freeze_at`` of the training the zero blocks are frozen, and the rest recovers.

    Raises TrainError: a ``freeze_at`` outside (0, 1), and whatever BlockSparsity raises.
    """

    def __init__(self, strength: float | Schedule, target: Target | None, freeze_at: float | None) -> None:
        if freeze_at is not None and not (is_number(freeze_at) and 0 < freeze_at < 1):
            remedy = "0.6 shrinks for six tenths of the steps and lets the rest recover for four"
            raise TrainError("", f"freeze_at={freeze_at!r}", "a share of the training between 0 and 1", remedy)
        self._strength, self._target, self._freeze_at = strength, target, freeze_at
        self._sparsity: BlockSparsity | None = None
        self._loaded: dict[str, Any] | None = None

    def begin(
        self, model: nn.Module, optimizer: Optimizer, step: int, progress: float, logged: Mapping[str, float]
    ) -> None:
        """Take the model as it is trained now, wrapped or sharded, and the optimizer that trains it.

        ``step`` optimizer steps were taken before, the last at this ``progress``; a resumed training goes on from the
        state that was loaded, or from the strengths that were ``logged``.
        """
        self._sparsity = sparsity = BlockSparsity(model, self._strength, self._target, optimizer)
        if self._loaded is not None:
            sparsity.load_state_dict(self._loaded)
        elif step:
            state = sparsity.state_dict()
            found = {name: logged[_key(name)] for name in state["loops"] if _key(name) in logged}
            loops = {name: [found.get(name, loop[0]), *loop[1:]] for name, loop in state["loops"].items()}
            sparsity.load_state_dict({**state, "steps": step, "loops": loops})
            self._maybe_freeze(progress)

    def step(self, progress: float) -> None:
        """After an optimizer step, at this share of the training."""
        if self._sparsity is not None:
            self._sparsity.step()
            self._maybe_freeze(progress)

    def figures(self) -> dict[str, float]:
        """What a log should have: the share of blocks that are exactly zero, the penalty's value, the strength (each
        layer's own, where they have targets of their own)."""
        if self._sparsity is None:
            return {}
        loops = self._sparsity.state_dict()["loops"]
        return {
            "block_sparsity": self._sparsity.sparsity(),
            "block_penalty": float(self._sparsity.penalty()),
            _key(""): self._sparsity.strength,
            **{_key(name): loop[0] for name, loop in loops.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the training's BlockSparsity; empty before it begins."""
        return {} if self._sparsity is None else self._sparsity.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where the next training begins."""
        self._loaded = state or None

    def _maybe_freeze(self, progress: float) -> None:
        due = self._freeze_at is not None and progress >= self._freeze_at
        if due and self._sparsity is not None and not self._sparsity.frozen:
            self._sparsity.freeze()


def _key(name: str) -> str:
    return f"block_strength/{name}" if name else "block_strength"
