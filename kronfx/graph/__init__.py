"""torch.fx lives here and nowhere else: sites are found, rewritten and folded back."""

from kronfx.graph.branches import branches
from kronfx.graph.bsr import to_bsr
from kronfx.graph.discover import Discovery, discover
from kronfx.graph.draw import draw
from kronfx.graph.factorize import Init, factorize
from kronfx.graph.fold import fold, fold_sites
from kronfx.graph.match import Match
from kronfx.graph.unfit import require_unshared
from kronfx.graph.whole import graph

__all__ = [
    "Discovery",
    "Init",
    "Match",
    "branches",
    "discover",
    "draw",
    "factorize",
    "fold",
    "fold_sites",
    "graph",
    "require_unshared",
    "to_bsr",
]
