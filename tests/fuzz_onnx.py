"""Damaged ONNX files into ``sparsify_onnx``: ``python tests/fuzz_onnx.py --count 50000``.

Every mutation of ten small models is written and answers what its source answers, or is refused with a KronfxError.
Nothing else gets out: no exception of another library, no crash, nothing that takes over 10 s, no file that is larger
than its source. It is the same mutations every time; ``--first`` and ``--count`` choose among them.

A child process does the work, so that a crash or a hang of native code costs one mutation and names it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import kronfx as kx

SECONDS = 10  # for one mutation
SLACK = 2500  # bytes that a file may be larger than its source, for nodes and the record where it was made faster
Bytes = bytes
Mutation = Callable[[np.random.Generator, Bytes], Bytes]


def models() -> dict[str, Bytes]:
    """Ten files of some KB, each with another kind of thing in it."""
    from onnx_files import onnx_file, planted

    W, V = planted(64, 64, (8, 8)), planted(64, 64, (8, 8), seed=1)
    table = np.random.default_rng(0).standard_normal((10, 64)).astype("f")
    rows, listed = "float[b, 64] x => float[b, 64] y", ", ".join(map(str, W.ravel()))
    made: dict[str, tuple[str, list[str], dict[str, np.ndarray]]] = {
        "mlp": (rows, ["h = Gemm<transB=1>(x, w, c)", "y = Relu(h)"], {"w": W, "c": W[0]}),
        "constants": (
            rows,
            [f"c = Constant<value=float[64, 64] {{{listed}}}>()", "w = Transpose(c)", "y = MatMul(x, w)"],
            {},
        ),
        "attention": (
            "float[b, 5, 64] x => float[b, 5, 64] y",
            ["q = MatMul(x, w)", "k = MatMul(x, v)", "t = Transpose<perm=[0, 2, 1]>(k)", "a = MatMul(q, t)",
             "p = Softmax<axis=-1>(a)", "y = MatMul(p, q)"],
            {"w": W, "v": V},
        ),
        "embedding": (
            "int64[b, s] x => float[b, s, 64] y",
            ["e = Gather(table, x)", "y = MatMul(e, w)"],
            {"table": table, "w": W},
        ),
        "convolution": (
            "float[b, 16, 4, 4] x => float[b, 64, 1, 1] y",
            ["h = Conv(x, w)", "y = GlobalAveragePool(h)"],
            {"w": planted(64, 16, (8, 8))[:, :, None, None]},
        ),
        "branch": (
            "float[b, 64] x, bool f => float[b, 64] y",
            ["h = MatMul(x, w)",
             "y = If(f) <then_branch = yes () => (float[b, 64] z) { z = MatMul(h, w) },"
             " else_branch = no () => (float[b, 64] u) { u = MatMul(h, w) }>"],
            {"w": W},
        ),
        "8 bits": (
            rows,
            ["q, s, z = DynamicQuantizeLinear(x)", "i = MatMulInteger(q, w, z)", "f = Cast<to=1>(i)", "y = Mul(f, s)"],
            {"w": (30 * W).astype(np.int8)},
        ),
        "shapes": (
            "float[b, 64] x => float[b, 1] y, float[b, 8, 8] g",
            ["d = Shape(x)", "n = Slice(d, zero, one)", "r = Concat<axis=0>(n, eight)", "g = Reshape(x, r)",
             "w = Expand(one_f, size)", "h = MatMul(x, w)", "y = ReduceSum<keepdims=1>(h, axes)"],
            {"zero": np.array([0]), "one": np.array([1]), "eight": np.array([8, 8]), "axes": np.array([1]),
             "one_f": np.ones((1, 1), "f"), "size": np.array([64, 32])},
        ),
        "16 bits": (
            "float16[b, 64] x => float16[b, 64] y",
            ["h = MatMul(x, w)", "y = Clip(h, low)"],
            {"w": W.astype(np.float16), "low": np.float16(0)},
        ),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        found = {name: onnx_file(path, head, *nodes, **own).read_bytes() for name, (head, nodes, own) in made.items()}
        path.write_bytes(found["mlp"])
        kx.sparsify_onnx(path, path, lowering="dense", tune=False)
        return {**found, "our own": path.read_bytes()}


def flipped(rng: np.random.Generator, content: Bytes) -> Bytes:
    """Up to four bits anywhere."""
    damaged = bytearray(content)
    for at in rng.integers(0, len(damaged), rng.integers(1, 5)):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def structured(rng: np.random.Generator, content: Bytes) -> Bytes:
    """Up to four bytes in what is no weight: where the bytes around are not all of a float's."""
    damaged, head = bytearray(content), 400
    for _ in range(int(rng.integers(1, 5))):
        end = rng.integers(2)
        at = int(rng.integers(0, head)) if end else len(damaged) - 1 - int(rng.integers(0, head))
        damaged[at % len(damaged)] = int(rng.integers(256))
    return bytes(damaged)


def cut(rng: np.random.Generator, content: Bytes) -> Bytes:
    """A few bytes left out."""
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 20))
    return content[:at] + content[at + size :]


def repeated(rng: np.random.Generator, content: Bytes) -> Bytes:
    """A few bytes twice."""
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 60))
    return content[: at + size] + content[at:]


def swapped(rng: np.random.Generator, content: Bytes) -> Bytes:
    """One number of the message's own by another, so that it still parses: lengths, types, dims, versions."""
    model = onnx.ModelProto.FromString(content)
    targets = list(_numbers(model))
    message, name, at = targets[int(rng.integers(len(targets)))]
    value = int(rng.choice([-1, 0, 1, 2, 3, 7, 11, 64, 255, 2**31 - 1, 2**31, 2**62, -(2**62), 20, 127]))
    try:
        if at is None:
            setattr(message, name, value)
        else:
            getattr(message, name)[at] = value
    except ValueError:  # out of the field's range
        return flipped(rng, content)
    return model.SerializeToString()


def _numbers(message: Any) -> Iterator[tuple[Any, str, int | None]]:
    """Every integer in a message, weights excepted."""
    for field, value in message.ListFields():
        is_list = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if field.type == field.TYPE_MESSAGE:
            for part in value if is_list else [value]:
                yield from _numbers(part)
        elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_ENUM):
            yield from ((message, field.name, at) for at in (range(len(value)) if is_list else [None]))


MUTATIONS: list[Mutation] = [flipped, structured, cut, repeated, swapped]


def mutation(number: int, sources: dict[str, Bytes]) -> tuple[str, Bytes]:
    """That number of mutation, by name and content."""
    name = list(sources)[number % len(sources)]
    mutate = MUTATIONS[number // len(sources) % len(MUTATIONS)]
    return f"{name}, {mutate.__name__}", mutate(np.random.default_rng(number), sources[name])


def verdict(content: Bytes, folder: Path, verify: bool) -> str:
    """What became of a file: ``written``, ``refused``, or the first thing that is wrong.

    Unverified, no runtime looks at it before it is taken apart, and as much as can be is.
    """
    src, dst = folder / "m.onnx", folder / "out.onnx"
    dst.unlink(missing_ok=True)
    src.write_bytes(content)
    try:
        str(kx.inspect(src))
    except kx.KronfxError:
        pass
    except Exception as error:
        return f"inspect: {_described(error)}"
    try:
        lowering = "auto" if verify else "blocks"
        report = kx.sparsify_onnx(src, dst, lowering=lowering, tune=False, verify=verify, batch_sizes=(1,))
    except kx.KronfxError:
        return "refused" if not dst.exists() else "a refused file was written"
    except Exception as error:
        return _described(error)
    if str(dst) not in str(report):
        return "a report that does not say of what"
    if verify and (report.max_error is None or not report.max_error <= (report.tolerance or 0)):
        return "a written file that was not compared"
    if dst.stat().st_size != report.bytes:
        return "a written file of another size than reported"
    return "written" if report.bytes <= len(content) + SLACK else "a file that grew"


def _described(error: Exception) -> str:
    place = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/kronfx/" in f.filename), None)
    at = f"{Path(place.filename).name}:{place.lineno}" if place else "?"
    return f"{type(error).__name__} at {at}: {str(error).splitlines()[0][:80] if str(error) else ''}"


def work(first: int, count: int) -> None:
    """In the child: a line for each mutation; the clock kills what hangs."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    sources = models()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            print(json.dumps([number]), flush=True)
            name, content = mutation(number, sources)
            signal.alarm(SECONDS)  # its default action is to end the process, native code or not
            found = verdict(content, Path(folder), verify=number % 3 != 0)
            signal.alarm(0)
            print(json.dumps([number, name, found]), flush=True)


def fuzz(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """How many were written and refused, and what is wrong with the others."""
    counts, wrong, end = Counter[str](), list[str](), first + count
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while first < end:
        command = [sys.executable, __file__, "--child", "--first", str(first), "--count", str(end - first)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert child.stdout is not None
        current = first
        for line in child.stdout:
            current, *rest = json.loads(line)
            if rest:
                name, found = rest
                counts[found if found in ("written", "refused") else "wrong"] += 1
                if found not in ("written", "refused"):
                    wrong.append(f"{current} ({name}): {found}")
                first = current + 1
        if child.wait() != 0:
            ended = "it hung" if -child.returncode == signal.SIGALRM else f"the process ended ({child.returncode})"
            wrong.append(f"{current}: {ended}")
            counts["wrong"] += 1
            first = current + 1
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(options.first, options.count)
        return
    counts, wrong = fuzz(options.first, options.count)
    print("\n".join(wrong))
    print(f"{options.count} mutations: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
