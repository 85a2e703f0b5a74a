"""Helpers that train a factored model, and the baselines that train a dense one; each is called from the user's loop.

``BlockSparsity`` drives whole blocks of the factored layers to zero: a target, the optimizer and the steps of the
training are all it needs. ``PatternSelection`` trains several block shapes side by side until one is left,
``LayerwisePatternSelection`` layer by layer. On dense models ``GroupLasso``,
``ElasticGroupLasso`` and ``MagnitudePruning`` do so, with the same interface: how a weight is cut (``Blocks``,
``Rows``, ``Columns``, ``Entries``) and what a group is charged for (``Lasso``, ``Elastic``) are two axes that compose.
Strengths are numbers or schedules (``Constant``, ``Stepped``, ``Linear``, ``Cosine``); ``History`` keeps what a penalty
did, and draws it.
"""

from kronfx.train.course.schedules import Constant, Cosine, Linear, Stepped
from kronfx.train.history import History
from kronfx.train.optimizers.muon import KroneckerMuon
from kronfx.train.optimizers.rates import param_groups
from kronfx.train.parts.groups import Blocks, Columns, Entries, Rows
from kronfx.train.parts.shrinkage import Elastic, Lasso
from kronfx.train.patterns.selection import LayerwisePatternSelection, PatternSelection
from kronfx.train.penalties.block_sparsity import BlockSparsity
from kronfx.train.penalties.group_lasso import ElasticGroupLasso, GroupLasso
from kronfx.train.penalties.magnitude import MagnitudePruning

__all__ = [
    "BlockSparsity",
    "Blocks",
    "Columns",
    "Constant",
    "Cosine",
    "Elastic",
    "ElasticGroupLasso",
    "Entries",
    "GroupLasso",
    "History",
    "KroneckerMuon",
    "Lasso",
    "LayerwisePatternSelection",
    "Linear",
    "MagnitudePruning",
    "PatternSelection",
    "Rows",
    "Stepped",
    "param_groups",
]
