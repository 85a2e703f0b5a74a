"""Penalties: what brings groups of weights to exact zero. One file each, one row each in the table below.

To add one: a file beside ``group_lasso.py`` with a subclass of
:class:`~kronfx.train.penalties.grouped.GroupPenalty`, which hands over its parts (``kronfx/train/parts``: which
tensors, how they are cut into groups, what a group is charged for). Where it does not take the proximal step of what
it charges, ``_shrink`` says what it does instead; what it remembers besides has a ``PenaltyState`` of its own. Then a
row below, and the name in ``kronfx/train/__init__.py``. Schedules, targets, skipped steps, freezing, averages and
resuming come with the class, and ``tests/train/penalties/test_penalty_table.py`` holds every row to them.

What takes layers out of the model is a :class:`~kronfx.train.penalties.penalty.Penalty` without groups:
``kronfx/train/patterns``.
"""

from __future__ import annotations

from kronfx.train.penalties.block_sparsity import BlockSparsity
from kronfx.train.penalties.group_lasso import ElasticGroupLasso, GroupLasso
from kronfx.train.penalties.grouped import GroupPenalty
from kronfx.train.penalties.magnitude import MagnitudePruning

PENALTIES: tuple[type[GroupPenalty], ...] = (
    BlockSparsity,
    GroupLasso,
    ElasticGroupLasso,
    MagnitudePruning,
)
