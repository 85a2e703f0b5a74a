"""From an ONNX file, whoever wrote it, to a graph that the other rooms can take as it is.

What no exporter writes ends here, with a sentence; what some write in their own words is brought into one form.
"""

from kronfx.deploy.opening.opened import Opened, opened
from kronfx.deploy.opening.original import Original

__all__ = ["Opened", "Original", "opened"]
