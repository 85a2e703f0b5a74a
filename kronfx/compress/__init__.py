"""From a trained model: blocks chosen by what they do for its outputs, seen on a few batches, what is left set anew.

What was measured: ``kronfx/decisions/one_shot.md``.
"""

from kronfx.compress.calibration import listed
from kronfx.compress.energies import OutputEnergies
from kronfx.compress.fit import fit_factors
from kronfx.compress.maps import Map
from kronfx.compress.options import PruneKeywords, PruneOptions
from kronfx.compress.prune import Copy, prune
from kronfx.compress.recover import RecoverKeywords, RecoverOptions, recover

__all__ = [
    "Copy",
    "Map",
    "OutputEnergies",
    "PruneKeywords",
    "PruneOptions",
    "RecoverKeywords",
    "RecoverOptions",
    "fit_factors",
    "listed",
    "prune",
    "recover",
]
