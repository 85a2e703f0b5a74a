"""What this machine takes: measured once and kept in a file, and asked again where a prediction is too close to call.

``calibrate`` fits three rates to timed training steps, ``rates_here`` keeps them, ``tune`` times the layers of a model.
Why these rates, and how often they choose right: ``kronfx/decisions/clock.md``.
"""

from kronfx.clock.cache import rates_here
from kronfx.clock.calibration import calibrate
from kronfx.clock.tuning import TunedLayer, Tuning, tune

__all__ = ["TunedLayer", "Tuning", "calibrate", "rates_here", "tune"]
