"""Deterministic, quiet tests: one hypothesis profile, two threads, a machine on which multiply-adds are all."""

import os
from tempfile import TemporaryDirectory

import torch
from hypothesis import settings

from kronfx import Rates
from kronfx.clock import cache

settings.register_profile("kronfx", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("kronfx")
torch.set_num_threads(2)

_kept = TemporaryDirectory(prefix="kronfx-rates-")  # gone with the process
os.environ["KRONFX_CACHE"] = _kept.name
for _threads in range(1, 2 + (os.cpu_count() or 2)):  # what subprocesses have, too: every plan is the same everywhere
    cache.path(_threads).write_text(Rates(10_000_000, 0, 0).to_json())
