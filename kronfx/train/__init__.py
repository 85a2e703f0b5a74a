"""Helpers that train a factored model; each is called from the user's own loop."""

from kronfx.train.block_sparsity import BlockSparsity

__all__ = ["BlockSparsity"]
