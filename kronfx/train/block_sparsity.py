"""L1 on ``S``: blocks of ``W`` that become exactly zero while the model trains.

The objective is ``task + strength * sum over layers of ||S||_1`` (paper, Eq. 4). A subgradient step never gives exact
zeros, so the L1 part acts through its proximal step, after the optimizer's: ``S <- sign(S) max(|S| - lr strength, 0)``.

**The L1 norm needs company.** Only ``S * A`` matters, so ``S`` can shrink for free while ``A`` grows. Each step ends
with ``S`` brought back to a root mean square of 1 in every layer, ``A`` taking the factor: ``W`` stays, and L1 at a
fixed L2 norm rewards few blocks instead of small ones. The scale of ``A`` and ``B`` is the task's alone.

Measured, test accuracy in percent at a target of 60% and 80% zero blocks, 5 epochs of MNIST, batch 128, Adam with a
one-cycle rate. LeNet-5: rank 5, blocks 8x16, 4x8, 2x4, rate up to 0.01, seed 1. Linear 10x784: rank 4, blocks 2x4, rate
up to 0.004, seed 0. One run each: differences of 0.2 mean nothing.

=========================================================  ==========  ==========  ===========  ===========
what holds the scale                                       LeNet, 60%  LeNet, 80%  linear, 60%  linear, 80%
=========================================================  ==========  ==========  ===========  ===========
nothing                                                    98.19       97.69       89.31        85.71
weight decay 0.001 on ``A`` and ``B``                      98.29       97.67       -            -
all ``B_i`` and all blocks of ``A`` to their first norm    98.93       98.56       91.73        90.92
``S`` to a root mean square of 1                           98.95       98.46       91.88        89.91
``S``, and all ``B_i``, and all blocks of ``A`` alike      98.74       98.13       91.33        90.19
=========================================================  ==========  ==========  ===========  ===========

The third row looks as good as the fourth, but sends every growth of ``A`` into ``S``: on a small regression ``S``
passed 1000 and the fit was lost, at a rate of 0.015 LeNet-5 fell to 95.89 (60%, seed 0), and plain SGD diverged
(linear, rate 0.05) where the fourth gave 91.16. The fourth is the simplest of those that work: it is what runs.
"""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from kronfx.errors import TrainError
from kronfx.layers import kronecker_layers, require_module
from kronfx.train.parts import FactoredPart
from kronfx.train.penalty import Part, Penalty
from kronfx.train.schedules import Schedule
from kronfx.train.target import Target


class BlockSparsity(Penalty):
    """Drives blocks of every factored layer's ``W`` to exact zero while any optimizer trains the model.

    ::

        loss = task + sparsity.penalty()
        loss.backward()
        optimizer.step()
        sparsity.step()

    ``strength`` is the ``lambda`` of ``task + lambda sum ||S||_1``, a number or a schedule (any function from the
    optimizer's steps to a number: ``Constant``, ``Stepped``, ``Linear``, ``Cosine``); one step shrinks every
    ``|S[p, j]|`` by ``lr strength``. ``lr`` is that of the parameter group of ``optimizer`` which holds ``S``, as it is
    at that step; without an optimizer it is 0.001. Adam's steps are about ``lr`` long whatever the gradient, so under
    Adam the strength is a share of its step (LeNet-5 on MNIST, rank 5, seed 0: 0.2 zeroed 16% of the blocks, 0.5 80%,
    1 92%). With an ``optimizer`` a step is taken once for each of its steps: none while gradients accumulate, none
    after a step that a ``GradScaler`` skipped.

    With a ``target`` in (0, 1), the share of blocks that are to be zero, the strength is found, and the given one is
    where it starts: it grows by 0.5% a step (twofold in 140) while the share is below, and no step shrinks further than
    reaching the target takes. Once there the share holds; a block may still change places with another. A mapping from
    names or globs to shares gives layers targets of their own, and leaves the layers it does not name alone.

    ``freeze()`` ends the shrinking: the zero blocks stay, the rest recovers.

    A layer whose ``S`` is frozen (``requires_grad`` False when this is built) keeps its values, and the target is a
    share of the other layers' blocks.

    Raises TrainError: no factored layer, or all of them frozen; a strength that is negative or not finite (or 0 or a
    schedule with a target); a target outside (0, 1), or that no number of blocks comes within a percentage point of; an
    ``S`` in no parameter group of the optimizer; and, at any step, an ``S`` with NaN or infinite entries.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float | Schedule = 0.1,
        target: Target | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        require_module(model, TrainError)
        parts: dict[str, Part] = {name: FactoredPart(name, layer) for name, layer in kronecker_layers(model).items()}
        if not parts:
            found = "no layer of the model is factored"
            raise TrainError("", found, "at least one factored layer", "call kronfx.factorize on it first")
        super().__init__(parts, strength, target, optimizer)
