"""The baselines that shrink: group LASSO and elastic group LASSO on a dense model, by their proximal steps."""

from __future__ import annotations

from torch import nn

from kronfx.train.course.ramp import Course
from kronfx.train.course.schedules import Schedule
from kronfx.train.course.stepper import Stepper
from kronfx.train.course.target import Target
from kronfx.train.parts.dense import GroupsWish, dense_parts
from kronfx.train.parts.shrinkage import Elastic, Shrinkage, as_shrinkage
from kronfx.train.penalties.grouped import GroupPenalty

SHRINKS = 0.4  # of a training of known length; the rest of it lets what is left recover


class GroupLasso(GroupPenalty):
    """``task + strength * sum over groups of ||W_g||_F`` (paper, Eq. 1) on the dense weights of a model.

    ::

        penalty = kx.train.GroupLasso(model, kx.train.Blocks(2, 2), strength=0.1, optimizer=optimizer)

    ``groups`` is one way to cut every ``nn.Linear`` (``Blocks(m2, n2)``, ``Rows()``, ``Columns()``, ``Entries()``), or
    a mapping from names or globs to such, which may name any weight. ``shrinkage`` is what a group is charged for:
    any of them goes with any groups. One step shrinks every norm by learning rate times strength. ``strength``,
    ``target`` and ``optimizer``, and the loop around them: as :class:`BlockSparsity`'s. With ``steps``, the optimizer's
    steps of the whole training, it shrinks towards the target for four tenths of them, then freezes by itself.

    Train with SGD: under Adam they lose some points of accuracy (``kronfx/decisions/baselines.md``).

    Raises TrainError: no weight to cut, one that cannot be cut so, and whatever BlockSparsity raises.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: GroupsWish,
        strength: float | Schedule = 0.1,
        target: Target | None = None,
        optimizer: Stepper | None = None,
        shrinkage: Shrinkage | None = None,
        steps: int | None = None,
    ) -> None:
        parts = dense_parts(model, groups, as_shrinkage(shrinkage))
        course = None if steps is None else Course(steps=steps, share=SHRINKS, target=target)
        super().__init__(parts, strength=strength, target=target, optimizer=optimizer, course=course)


class ElasticGroupLasso(GroupLasso):
    """``task + strength * sum over groups of (||W_g||_F + ridge / 2 ||W_g||_F^2)``: :class:`GroupLasso` with
    ``shrinkage=Elastic(ridge)``."""

    def __init__(
        self,
        model: nn.Module,
        groups: GroupsWish,
        strength: float | Schedule = 0.1,
        target: Target | None = None,
        optimizer: Stepper | None = None,
        ridge: float = 1.0,
        steps: int | None = None,
    ) -> None:
        super().__init__(model, groups, strength, target, optimizer, shrinkage=Elastic(ridge), steps=steps)
