"""A penalty's state as a file: its tensors as safetensors, the rest as JSON in the header. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kronfx.errors import TrainError
from kronfx.files import write


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a ``state_dict()``, whose values are plain or mappings from names to tensors. Raises TrainError."""
    masks = {key: value for key, value in state.items() if _holds_tensors(value)}
    tensors = {f"{key}/{name}": x.contiguous() for key, named in masks.items() for name, x in named.items()}
    plain = {key: {} if key in masks else value for key, value in state.items()}
    write(path, save(tensors, {"state": json.dumps(plain)}), TrainError)


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote. Raises TrainError on another file."""
    try:
        with safe_open(path, "pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118  the file is no mapping
                of, _, name = key.partition("/")
                state[of][name] = file.get_tensor(key)
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        remedy = "delete it, and the blocks are weighed anew"
        raise TrainError(str(path), f"{error}", "a state that this callback wrote", remedy) from error
    return state


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(x, Tensor) for x in value.values())
