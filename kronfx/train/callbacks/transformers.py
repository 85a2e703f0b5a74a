"""Block sparsity inside a transformers ``Trainer``: this file is the only one that imports transformers.

::

    from kronfx.train.callbacks.transformers import BlockSparsityCallback

    model = kx.factorize(model, init="nearest")
    Trainer(model, arguments, train_dataset=data, callbacks=[BlockSparsityCallback(target=0.8)]).train()

A pruned model is taught by the one that it was::

    pruned = kx.prune(model, batches, target=0.75)
    Trainer(pruned, arguments, train_dataset=data, callbacks=[RecoverCallback(teacher=model)]).train()
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kronfx.distance import Distance
from kronfx.errors import warn
from kronfx.layers import KeptZeros, sparsity
from kronfx.train.callbacks.driver import SparsityDriver
from kronfx.train.callbacks.teaching import Teaching
from kronfx.train.course.schedules import Schedule
from kronfx.train.course.target import Target


class BlockSparsityCallback(TrainerCallback):
    """Drives blocks of every factored layer to exact zero while a ``Trainer`` trains the model.

    The penalty ``strength * sum ||S||_1`` has no gradient: its proximal step comes right after the optimizer's, before
    the learning rate moves on, so the Trainer's loss needs no change. Options: :class:`SparsityDriver`.

    A ``target`` alone is all it needs: the ramp to it spans the Trainer's steps.

    ``block_sparsity`` (the share of blocks that are exactly zero), ``block_penalty`` and ``block_strength`` go into
    every log, hence into ``trainer.state.log_history``. A checkpoint keeps the state (``block_sparsity.safetensors``):
    a training that is resumed from one in its own ``output_dir`` comes to the same numbers. Resumed from elsewhere the
    closed loop goes on from the strength in the log, and the ramp from its place, its blocks weighed anew.
    With ``load_best_model_at_end`` the best model is the best of those that have the target's zeros.
    A logger that the Trainer put in front of this callback reads ``log_history`` to see the figures.
    """

    def __init__(
        self, strength: float | Schedule | None = None, target: Target | None = None, freeze_at: float | None = None
    ) -> None:
        self._driver = SparsityDriver(strength, target, freeze_at)
        self._reached, self._share = False, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model and its optimizer are wrapped, placed and sharded by now."""
        logged: dict[str, float] = next((log for log in reversed(state.log_history) if "block_strength" in log), {})
        if state.global_step:
            self._driver.load(_beside(args, state))
        self._driver.begin(kwargs["model"], kwargs["optimizer"], state.max_steps, state.global_step, logged)
        self._reached = self._driver.reached

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the state into the checkpoint."""
        path = _beside(args, state)
        if args.should_save and path.parent.is_dir():
            self._driver.save(path)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The proximal step, at the learning rate of the step just taken."""
        self._driver.step(state.global_step / max(1, state.max_steps))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A metric from before the blocks went is not to be beaten: the best model is one that has the zeros."""
        if not self._reached and self._driver.reached:
            self._reached = True
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say so where the best model has fewer zeros than the last."""
        share = self._driver.sparsity()
        if share < self._share:
            text = (
                f"the best checkpoint, now loaded, has {share:.1%} of its blocks zero, the last had {self._share:.1%}"
            )
            warn(f"train: {text}; pass a target, or load_best_model_at_end=False")

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
        self._share = figures.get("block_sparsity", 0.0)
        if logs is not None:
            logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)


class RecoverCallback(TrainerCallback):
    """Trains what ``kx.prune`` left, as ``kx.recover`` does, inside a ``Trainer``: blocks that are zero when it begins
    are zero after every step, whatever the optimizer.

    With a ``teacher``, the model before it was pruned, the loss of a step is how far the model's outputs are from the
    teacher's on the same batch (``by``: as ``kx.recover`` takes it); no labels are needed, evaluations go on as ever,
    and the teacher is moved to where the model is. Without one the loss is the Trainer's. A training that was
    interrupted leaves nothing behind: the model's next call outside it is its own. Raises TrainError.
    """

    def __init__(self, teacher: nn.Module | None = None, by: Distance = "logits") -> None:
        self._teaching = None if teacher is None else Teaching(teacher, by)
        self._zeros: KeptZeros | None = None
        self._hooks: list[RemovableHandle] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model is placed by now."""
        self._release()  # of a training that was interrupted
        model: nn.Module = kwargs["model"]
        if not sparsity(model)[0]:
            warn("train: no block of this model is zero, so there is none to keep; pass what kronfx.prune returned")
        self._zeros = KeptZeros(model)

        def leave(_model: nn.Module, _args: Any) -> None:
            if not _is_running(state):
                self._release()

        self._hooks.append(model.register_forward_pre_hook(torch.compiler.disable(leave)))
        if self._teaching is not None:
            self._teaching.teacher.to(next(model.parameters()).device)
            self._hooks.append(model.register_forward_hook(self._teaching, with_kwargs=True))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An optimizer may move what has no gradient."""
        if self._zeros is not None:
            self._zeros.restore()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model is the user's again."""
        self._release()

    def _release(self) -> None:
        if self._zeros is not None:
            self._zeros.release()
        for hook in self._hooks:
            hook.remove()
        self._zeros, self._hooks = None, []


def _is_running(state: TrainerState) -> bool:
    """Whether the ``train()`` of this state goes on, in any thread: nobody is told of the end of one that raises."""
    train = inspect.unwrap(Trainer.train).__code__
    frames: list[FrameType | None] = list(sys._current_frames().values())
    while frames:
        frame = frames.pop()
        if frame is not None:
            if frame.f_code is train and getattr(frame.f_locals.get("self"), "state", None) is state:
                return True
            frames.append(frame.f_back)
    return False


def _beside(args: TrainingArguments, state: TrainerState) -> Path:
    """In the folder that the Trainer gives the checkpoint of this step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / "block_sparsity.safetensors"
