"""What the trainer callbacks share: a BlockSparsity that lives as long as a training, its end, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kronfx.errors import TrainError
from kronfx.train.callbacks.state_file import read_state, write_state
from kronfx.train.course.schedules import Schedule
from kronfx.train.course.stepper import Stepper
from kronfx.train.course.target import Target
from kronfx.train.options import is_number
from kronfx.train.penalties.block_sparsity import BlockSparsity


class SparsityDriver:
    """Options first, the model when the training begins.

    A ``target`` alone is reached by the recipe of :class:`BlockSparsity`, over all steps of the training, which the
    trainer knows. With a ``strength`` (a number, or a schedule of the optimizer's steps) or a ``freeze_at`` the closed
    loop seeks it; at the share ``freeze_at`` of the training the zero blocks are frozen, and the rest recovers.

    Raises TrainError: a ``freeze_at`` outside (0, 1), and whatever BlockSparsity raises.
    """

    def __init__(
        self, strength: float | Schedule | None = None, target: Target | None = None, freeze_at: float | None = None
    ) -> None:
        if freeze_at is not None and not (is_number(freeze_at) and 0 < freeze_at < 1):
            remedy = "0.6 shrinks for six tenths of the steps and lets the rest recover for four"
            raise TrainError("", f"freeze_at={freeze_at!r}", "a share of the training between 0 and 1", remedy)
        self._strength, self._target, self._freeze_at = strength, target, freeze_at
        self._sparsity: BlockSparsity | None = None
        self._loaded: dict[str, Any] | None = None

    def begin(
        self, model: nn.Module, optimizer: Stepper, total: int, step: int = 0, logged: Mapping[str, float] | None = None
    ) -> None:
        """Take the model as it is trained now, wrapped or sharded, and the optimizer that trains it.

        ``step`` of the ``total`` optimizer steps were taken before; a resumed training goes on from the state that was
        loaded, or from the step and the strengths that were ``logged``.
        """
        recipe = self._target is not None and self._strength is None and self._freeze_at is None
        steps = total if recipe else None
        self._sparsity = sparsity = BlockSparsity(
            model, strength=self._strength, target=self._target, optimizer=optimizer, steps=steps
        )
        if self._loaded is not None:
            sparsity.load_state_dict(self._loaded)
            self._loaded = None
        elif step:
            figures = logged or {}
            strengths = {name: figures[_key(name)] for name in sparsity.strengths() if _key(name) in figures}
            sparsity.resume_at(step, strengths)
            self._maybe_freeze((step - 1) / max(1, total))

    def step(self, progress: float) -> None:
        """After an optimizer step, at this share of the training."""
        if self._sparsity is not None:
            self._sparsity.step()
            self._maybe_freeze(progress)

    @property
    def reached(self) -> bool:
        """Whether the zeros are those asked for."""
        return self._sparsity is not None and self._sparsity.reached

    def sparsity(self) -> float:
        """The share of blocks that are exactly zero, as the model is now; 0 before the training begins."""
        return 0.0 if self._sparsity is None else self._sparsity.sparsity()

    def figures(self) -> dict[str, float]:
        """What a log should have: the share of blocks that are exactly zero, the penalty's value, the strength (each
        layer's own, where they have targets of their own)."""
        if self._sparsity is None:
            return {}
        return {
            "block_sparsity": self._sparsity.sparsity(),
            "block_penalty": float(self._sparsity.penalty()),
            _key(""): self._sparsity.strength,
            **{_key(name): strength for name, strength in self._sparsity.strengths().items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the training's BlockSparsity; empty before it begins."""
        return {} if self._sparsity is None else self._sparsity.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where the next training begins."""
        self._loaded = state or None

    def save(self, path: Path) -> None:
        """Write the state beside a trainer's checkpoint."""
        write_state(path, self.state_dict())

    def load(self, path: Path) -> None:
        """Read it, where there is one."""
        if path.is_file():
            self.load_state_dict(read_state(path))

    def _maybe_freeze(self, progress: float) -> None:
        due = self._freeze_at is not None and progress >= self._freeze_at
        if due and self._sparsity is not None and not self._sparsity.frozen:
            self._sparsity.freeze()


def _key(name: str) -> str:
    return f"block_strength/{name}" if name else "block_strength"
