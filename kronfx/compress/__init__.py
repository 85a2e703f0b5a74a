"""From a trained model: blocks chosen by what they do for its outputs, seen on a few batches, what is left set anew."""

from kronfx.compress.calibration import listed
from kronfx.compress.fit import fit_factors
from kronfx.compress.maps import Map
from kronfx.compress.options import PruneKeywords, PruneOptions
from kronfx.compress.prune import Copy, prune

__all__ = ["Copy", "Map", "PruneKeywords", "PruneOptions", "fit_factors", "listed", "prune"]
