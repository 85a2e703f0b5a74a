"""The whole path on real data in under a minute: plan, factorize, train to sparsity, fold, export, run in onnxruntime.

    python examples/quickstart.py

It is `kronfx demo`, so that it comes with the package: the code to read is `kronfx/cli/demo.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from kronfx.cli.demo import demo


def main() -> None:
    """Run the path, print the table, leave the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits.onnx"), help="the ONNX file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    page = arguments.out.with_suffix(".html")
    print(demo(arguments.out, page, arguments.seed))


if __name__ == "__main__":
    main()
