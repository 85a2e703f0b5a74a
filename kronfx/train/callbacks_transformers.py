"""Block sparsity inside a transformers ``Trainer``: this file is the only one that imports transformers.

::

    from kronfx.train.callbacks_transformers import BlockSparsityCallback

    model = kx.factorize(model, init="nearest")
    Trainer(model, arguments, train_dataset=data, callbacks=[BlockSparsityCallback(target=0.8)]).train()
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kronfx.train.driver import SparsityDriver
from kronfx.train.schedules import Schedule
from kronfx.train.target import Target


class BlockSparsityCallback(TrainerCallback):
    """Drives blocks of every factored layer to exact zero while a ``Trainer`` trains the model.

    The penalty ``strength * sum ||S||_1`` has no gradient: its proximal step comes right after the optimizer's, before
    the learning rate moves on, so the Trainer's loss needs no change. Options: :class:`SparsityDriver`.

    ``block_sparsity`` (the share of blocks that are exactly zero), ``block_penalty`` and ``block_strength`` go into
    every log, hence into ``trainer.state.log_history``; a strength found there is where a resumed training goes on.
    A logger that the Trainer put in front of this callback reads ``log_history`` to see them.
    """

    def __init__(
        self, strength: float | Schedule = 0.1, target: Target | None = None, freeze_at: float | None = None
    ) -> None:
        self._driver = SparsityDriver(strength, target, freeze_at)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model and its optimizer are wrapped, placed and sharded by now."""
        logged: dict[str, float] = next((log for log in reversed(state.log_history) if "block_strength" in log), {})
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # accelerate's wrapper has no hooks
        progress = (state.global_step - 1) / max(1, state.max_steps)
        self._driver.begin(kwargs["model"], optimizer, state.global_step, progress, logged)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The proximal step, at the learning rate of the step just taken."""
        self._driver.step(state.global_step / max(1, state.max_steps))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the figures to the log, and to the history, which has its own copy by now."""
        figures = self._driver.figures()
        if logs is not None:
            logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)
