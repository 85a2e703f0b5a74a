"""Block sparsity inside a Lightning ``Trainer``: this file is the only one that imports lightning.

::

    from kronfx.train.callbacks.lightning import BlockSparsityCallback

    module.network = kx.factorize(module.network, init="nearest")
    Trainer(callbacks=[BlockSparsityCallback(target=0.8)]).fit(module, data)
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from kronfx.errors import TrainError
from kronfx.train.callbacks.driver import SparsityDriver
from kronfx.train.course.schedules import Schedule
from kronfx.train.course.target import Target


class BlockSparsityCallback(Callback):
    """Drives blocks of every factored layer to exact zero while a Lightning ``Trainer`` trains the module.

    The penalty ``strength * sum ||S||_1`` has no gradient, so the module's loss needs no change: its proximal step
    hangs on the optimizer itself. Lightning's own hooks come too late for it (``on_train_batch_end``: the scheduler has
    moved the learning rate on; ``on_before_zero_grad``: the next batch's graph already holds ``S``), and some are
    called for batches that only accumulate gradients. Options: :class:`SparsityDriver`. A ``target`` alone is all it
    needs: the ramp to it spans the Trainer's ``estimated_stepping_batches``.

    ``block_sparsity`` (the share of blocks that are exactly zero), ``block_penalty`` and ``block_strength`` are logged
    every ``log_every_n_steps``; checkpoints keep the state, and a resumed training comes to the same numbers.

    Raises TrainError: a module without exactly one optimizer.
    """

    def __init__(
        self, strength: float | Schedule | None = None, target: Target | None = None, freeze_at: float | None = None
    ) -> None:
        self._driver = SparsityDriver(strength, target, freeze_at)
        self._hook: RemovableHandle | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module and its optimizer are wrapped, placed and sharded by now."""
        if len(trainer.optimizers) != 1:
            remedy = "use kronfx.train.BlockSparsity in your own training_step"
            raise TrainError("", f"{len(trainer.optimizers)} optimizers", "one, which trains every S", remedy)
        (optimizer,) = trainer.optimizers
        total = trainer.estimated_stepping_batches  # infinite where nothing bounds the training
        self._driver.begin(pl_module, optimizer, 0 if math.isinf(total) else int(total))

        def proximal_step(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            self._driver.step(trainer.global_step / max(1, total))

        self._hook = optimizer.register_step_post_hook(proximal_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the figures, as often as the Trainer logs anything."""
        every = int(getattr(trainer, "log_every_n_steps", 1))  # 0 for never
        if every and trainer.global_step % every == 0:
            pl_module.log_dict(self._driver.figures())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizer as it was."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """So where the training is interrupted."""
        self._release()

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """The state of the training's BlockSparsity."""
        return self._driver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._driver.load_state_dict(state_dict)
