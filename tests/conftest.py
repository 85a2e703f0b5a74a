"""Deterministic, quiet tests: one hypothesis profile, two threads."""

import torch
from hypothesis import settings

settings.register_profile("kronfx", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("kronfx")
torch.set_num_threads(2)
