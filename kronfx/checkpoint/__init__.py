"""A model on disk: a folder of two files that a freshly built dense model of the user's class takes up again.

``plan.json`` is the plan of the factored layers (``kronfx.Plan.from_json`` reads it) with two more keys: ``folded``,
the block grids of the folded weights, and ``tied``, which names stand for one tensor. ``model.safetensors`` holds each
tensor once. Code is never stored: nothing is pickled, nothing unpickled.
"""

from kronfx.checkpoint.model import load, save

__all__ = ["load", "save"]
