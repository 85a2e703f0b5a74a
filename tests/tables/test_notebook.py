"""A real notebook's kernel: values show themselves, text is text, and what takes long has a bar that goes away."""

from __future__ import annotations

import json
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient and ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = (
    "import json, kronfx as kx, torch\nfrom IPython.utils.capture import capture_output",
    "plan = kx.plan(torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.Linear(512, 10)), rank=2)\nplan",
    "print(plan)",
    "with capture_output() as seen:\n    kx.factorize(torch.nn.Sequential(torch.nn.Linear(32, 32)), rank=1)\n"
    "print(json.dumps([shown.data['text/html'] for shown in seen.outputs]), seen.stdout, seen.stderr)",
)


@pytest.fixture(scope="module")
def outputs() -> list[list[Any]]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_value_at_the_end_of_a_cell_is_a_table(outputs: list[list[Any]]) -> None:
    (shown,) = (output for output in outputs[1] if output.output_type == "execute_result")
    assert '<div class="kronfx-shown">' in shown.data["text/html"]
    assert '<th scope="row">0</th>' in shown.data["text/html"]
    assert shown.data["text/plain"].startswith("plan: 2 layers")


def test_what_is_printed_is_text(outputs: list[list[Any]]) -> None:
    (printed,) = outputs[2]
    assert (printed.output_type, printed.name) == ("stream", "stdout")
    assert printed.text.startswith("plan: 2 layers")
    assert max(map(len, printed.text.splitlines())) <= 100


def test_a_bar_names_the_layer_and_leaves_nothing_behind(outputs: list[list[Any]]) -> None:
    (printed,) = outputs[3]
    drawn, end = json.JSONDecoder().raw_decode(printed.text)
    assert any("factorizing: 0 (0 of 1)" in html and "<progress" in html for html in drawn)
    assert drawn[-1] == ""
    assert printed.text[end:].strip() == ""
