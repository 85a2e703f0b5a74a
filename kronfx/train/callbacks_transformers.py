"""Where :mod:`kronfx.train.callbacks.transformers` was before."""

from kronfx.train.callbacks.transformers import BlockSparsityCallback

__all__ = ["BlockSparsityCallback"]
