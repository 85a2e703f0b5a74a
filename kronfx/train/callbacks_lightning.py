"""Where :mod:`kronfx.train.callbacks.lightning` was before."""

from kronfx.train.callbacks.lightning import BlockSparsityCallback

__all__ = ["BlockSparsityCallback"]
