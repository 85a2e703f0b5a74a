"""Rows shared out among torch's own threads, each of which multiplies its own from the first product to the last.

Torch shares out every product anew: its threads wait for one another after each, and what one of them has written the
other reads. Of products that take a fraction of a millisecond that is a tenth of the time on a quiet machine, and half
of it on a busy one (measured: ``kronfx/decisions/portions.md``). Threads of our own would compete with torch's, which
go on spinning after a product. So this opens a parallel region of the OpenMP library that torch has loaded; products
inside it are computed by the thread that asks for them.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from kronfx.layers.scratch import Scratch

MOST = 4  # threads that share: each asks for its products under Python's lock, so of many most would wait
P = TypeVar("P")
T = TypeVar("T")
_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _library() -> Any:
    """The OpenMP library among the symbols that torch has loaded for everybody; None where it has none of GNU's."""
    if sys.platform == "win32":
        return None
    library = ctypes.CDLL(None)
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    if not all(hasattr(library, name) for name in names):
        return None
    library.GOMP_parallel.argtypes = (_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    return library


class _Desks(threading.local):
    """Of every thread that shares out: the memory of those it shares with, its own first."""

    def __init__(self) -> None:
        self.scratch: list[Scratch] = []

    def of(self, count: int) -> list[Scratch]:
        self.scratch.extend(Scratch() for _ in range(count - len(self.scratch)))
        return self.scratch[:count]


_openmp, _desks = _library(), _Desks()


def sharers() -> int:
    """How many threads share what is handed to :func:`shared_out`: torch's, or this one alone."""
    count = torch.get_num_threads()
    # A mode that watches what is called, of torch's profilers and counters, sees its own thread's only.
    is_shared = count <= MOST and _openmp is not None and not torch._C._len_torch_dispatch_stack()
    return count if is_shared else 1


def shared_out(task: Callable[[Sequence[P], Scratch], T], portions: Sequence[P]) -> list[T]:
    """What ``task(some of the portions, scratch)`` returns, of each thread's; raises what one of them raised.

    Portions are dealt out in turn: sorted by size, every thread gets about as much.
    """
    count = min(sharers(), len(portions))
    if count < 2:
        return by_itself(task, portions)
    desks = _desks.of(count)
    return _in_parallel(lambda i: task(portions[i::count], desks[i]), count)


def by_itself(task: Callable[[Sequence[P], Scratch], T], portions: Sequence[P]) -> list[T]:
    """The same by this thread, which leaves every product to torch."""
    return [task(portions, _desks.of(1)[0])]


def _in_parallel(task: Callable[[int], T], count: int) -> list[T]:
    """``[task(0), ..., task(count - 1)]``, each by a thread of torch's, or several by one where there are fewer."""
    found: dict[int, T] = {}
    raised: list[BaseException] = []
    is_inference = torch.is_inference_mode_enabled()

    def body(_data: object) -> None:
        try:
            # Of these modes each thread has its own.
            with torch.inference_mode(is_inference), torch.no_grad(), _set_fwd_grad_enabled(False):
                for i in range(_openmp.omp_get_thread_num(), count, _openmp.omp_get_num_threads()):
                    found[i] = task(i)
        except BaseException as error:  # nothing may pass through the library
            raised.append(error)

    _openmp.GOMP_parallel(_Body(body), None, count, 0)
    if raised:
        raise raised[0]
    return [found[i] for i in range(count)]
