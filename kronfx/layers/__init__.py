"""What a factored and a folded layer is, as a module.

A Kronecker subgraph lives in one module, :class:`KroneckerLinear`, which takes the place of a module that is one linear
map, or of a weight that its owner goes on reading (:class:`KroneckerWeight`). The subgraph could as well be spelled
out node by node in a graph, but then its site marks would be lost by pickling (fx retraces a pickled graph and drops
``node.meta``), and hooks, FSDP units and ``state_dict`` keys would have no module to hang on. ``kronfx.graph`` spells
it out, node by node and marked, wherever someone wants to look at it or transform it further.
"""

from kronfx.layers.adopted import KroneckerWeight, adopt, factored_weights, release
from kronfx.layers.candidates import CHILD, FactoredLayer, KroneckerCandidates, candidates_of
from kronfx.layers.closures import rebind
from kronfx.layers.convolution import Convolution, KroneckerConv
from kronfx.layers.copies import deep_copy
from kronfx.layers.factors import Factors
from kronfx.layers.find import (
    FOLDED,
    factored_sites,
    factors,
    folded_layers,
    kronecker_layers,
    named_sites,
    require_module,
    require_values,
    site_name,
    sparsity,
)
from kronfx.layers.folded import BlockSparseConv, BlockSparseLinear, FoldedWeight, block_sparse_conv, released
from kronfx.layers.linear import KroneckerLinear
from kronfx.layers.names import named_modules, named_parameters, unwrapped, user_name, wrapped
from kronfx.layers.precision import evaluating, full_precision
from kronfx.layers.products import answer, holds_unformed, rows_times_matrix
from kronfx.layers.zeros import KeptZeros

__all__ = [
    "CHILD",
    "FOLDED",
    "BlockSparseConv",
    "BlockSparseLinear",
    "Convolution",
    "FactoredLayer",
    "Factors",
    "FoldedWeight",
    "KeptZeros",
    "KroneckerCandidates",
    "KroneckerConv",
    "KroneckerLinear",
    "KroneckerWeight",
    "adopt",
    "answer",
    "block_sparse_conv",
    "candidates_of",
    "deep_copy",
    "evaluating",
    "factored_sites",
    "factored_weights",
    "factors",
    "folded_layers",
    "full_precision",
    "holds_unformed",
    "kronecker_layers",
    "named_modules",
    "named_parameters",
    "named_sites",
    "rebind",
    "release",
    "released",
    "require_module",
    "require_values",
    "rows_times_matrix",
    "site_name",
    "sparsity",
    "unwrapped",
    "user_name",
    "wrapped",
]
