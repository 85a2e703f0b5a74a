"""External data comes from below the model's folder and from nowhere else, however the way out is spelled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kronfx as kx

SECRET = np.random.default_rng(7).standard_normal((64, 64)).astype("f")
Place = Callable[[TensorProto], onnx.ModelProto]


def outside(location: str, **more: int) -> TensorProto:
    """A tensor of 64x64 floats whose bytes lie at ``location``."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 64], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_of(nodes: list[onnx.NodeProto], weights: list[TensorProto] = [], **more: object) -> onnx.ModelProto:  # noqa: B006
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])


def in_an_initializer(w: TensorProto) -> onnx.ModelProto:
    return model_of([PRODUCT], [w])


def in_a_constant(w: TensorProto) -> onnx.ModelProto:
    return model_of([helper.make_node("Constant", [], ["w"], value=w), PRODUCT])


def in_a_transposed_initializer(w: TensorProto) -> onnx.ModelProto:
    """A constant expression, which would be in the new file in another form."""
    turned = helper.make_node("Transpose", ["w"], ["t"])
    return model_of([turned, helper.make_node("MatMul", ["x", "t"], ["y"])], [w])


def in_a_body(w: TensorProto) -> onnx.ModelProto:
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    product = helper.make_node("MatMul", ["x", "w"], ["z"])
    bodies = [helper.make_graph([product], name, [], out, [w]) for name in ("then", "other")]
    flag = numpy_helper.from_array(np.array(True), "flag")
    return model_of([helper.make_node("If", ["flag"], ["y"], then_branch=bodies[0], else_branch=bodies[1])], [flag])


def in_a_constant_of_a_body(w: TensorProto) -> onnx.ModelProto:
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Constant", [], ["w"], value=w), helper.make_node("MatMul", ["x", "w"], ["z"])]
    bodies = [helper.make_graph(nodes, name, [], out) for name in ("then", "other")]
    flag = numpy_helper.from_array(np.array(True), "flag")
    return model_of([helper.make_node("If", ["flag"], ["y"], then_branch=bodies[0], else_branch=bodies[1])], [flag])


def in_a_function(w: TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Constant", [], ["w"], value=w), PRODUCT]
    function = helper.make_function("own", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])
    return model_of([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])


def in_a_sparse_initializer(w: TensorProto) -> onnx.ModelProto:
    model = model_of([PRODUCT])
    w.dims[:] = [64 * 64]
    indices = numpy_helper.from_array(np.arange(64 * 64))
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=w, indices=indices, dims=[64, 64]))
    return model


PLACES = [
    in_an_initializer, in_a_constant, in_a_transposed_initializer, in_a_body, in_a_constant_of_a_body, in_a_function,
    in_a_sparse_initializer,
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``in/`` is the model's folder, ``secret`` lies beside it, ``out/`` is where to write."""
    for name in ("in/below", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    (tmp_path / "in" / "a link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "a relative link").symlink_to("../secret")
    (tmp_path / "in" / "a linked folder").symlink_to(tmp_path)
    (tmp_path / "in" / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path


def assert_refused(home: Path, src: str | Path, verify: bool) -> None:
    """A sentence, and neither a file nor a trace of the secret."""
    with pytest.raises(kx.KronfxError, match="its external data") as caught:
        kx.sparsify_onnx(src, home / "out" / "m.onnx", tune=False, verify=verify)
    assert str(caught.value).startswith("export: ")
    assert list((home / "out").iterdir()) == []


LOCATIONS = [
    "../secret", "./../secret", "below/../../secret", "a link", "a relative link", "a linked folder/secret",
    "..\\secret", "below\\..\\..\\secret", "C:secret", "\\secret", "//secret", "", ".", "..", "below", "circle", "a\0b",
    "*/_ORT_MEM_ADDR_/*",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("verify", [True, False])
def test_a_way_out_is_refused(home: Path, location: str, verify: bool) -> None:
    Path("m.onnx").write_bytes(in_an_initializer(outside(location)).SerializeToString())
    assert_refused(home, "m.onnx", verify)


@pytest.mark.parametrize("location", ["secret", "in/m.data"])
def test_an_absolute_path_is_refused(home: Path, location: str) -> None:
    """Even one that leads into the folder."""
    Path("m.data").write_bytes(SECRET.tobytes())
    Path("m.onnx").write_bytes(in_an_initializer(outside(str(home / location))).SerializeToString())
    assert_refused(home, "m.onnx", False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verify", [True, False])
def test_wherever_the_tensor_stands(home: Path, place: Place, verify: bool) -> None:
    Path("m.onnx").write_bytes(place(outside("../secret")).SerializeToString())
    assert_refused(home, "m.onnx", verify)
    Path("m.onnx").write_bytes(place(outside("a link", offset=0, length=SECRET.nbytes)).SerializeToString())
    assert_refused(home, "m.onnx", verify)


@pytest.mark.parametrize("src", ["m.onnx", "./m.onnx", "../in/m.onnx", "below/../m.onnx", "a linked folder/in/m.onnx"])
@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_however_the_model_is_spelled(home: Path, src: str, kind: Callable[[str], object]) -> None:
    Path("m.onnx").write_bytes(in_an_initializer(outside("../secret")).SerializeToString())
    assert_refused(home, kind(src), False)  # type: ignore[arg-type]
    assert_refused(home, kind(str(home / "in" / src)), False)  # type: ignore[arg-type]


def test_from_the_root_and_from_a_folder_that_is_a_link(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m.onnx").write_bytes(in_an_initializer(outside("../secret")).SerializeToString())
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "linked").symlink_to(home / "in")
    (home / "elsewhere" / "secret").write_bytes(SECRET.tobytes())
    for folder, src in (
        (home, "in/m.onnx"),
        (home / "elsewhere", "linked/m.onnx"),
        (home / "elsewhere" / "linked", "m.onnx"),
    ):
        monkeypatch.chdir(folder)
        assert_refused(home, src, False)


def test_a_link_to_a_model_does_not_open_the_folder_of_its_data(home: Path) -> None:
    """The model may be a link; its data is looked for beside the link and beside the real file, not elsewhere."""
    Path("m.onnx").write_bytes(in_an_initializer(outside("secret")).SerializeToString())
    (home / "out" / "m.onnx").symlink_to(home / "in" / "m.onnx")
    (home / "out" / "secret").symlink_to(home / "secret")
    with pytest.raises(kx.KronfxError, match="outside the folder of the model"):
        kx.sparsify_onnx(home / "out" / "m.onnx", home / "in" / "new.onnx", tune=False, verify=False)
    assert not (home / "in" / "new.onnx").exists()


def test_nothing_is_read_and_yet_refused(home: Path) -> None:
    """A tensor of no entries, and one that names the place where kronfx itself puts values aside."""
    for dims, location in (([0, 64], "../secret"), ([0, 64], "/kronfx: values"), ([64, 64], "/kronfx: values")):
        tensor = outside(location, offset=0)
        tensor.dims[:] = dims
        Path("m.onnx").write_bytes(in_an_initializer(tensor).SerializeToString())
        assert_refused(home, "m.onnx", False)


@pytest.mark.parametrize(
    "more",
    [{"offset": -4}, {"offset": 4}, {"offset": 10**18}, {"length": 4}, {"length": 2 * SECRET.nbytes}, {"length": -1}],
)
def test_a_part_that_is_not_there(home: Path, more: dict[str, int]) -> None:
    Path("m.data").write_bytes(SECRET.tobytes())
    Path("m.onnx").write_bytes(in_an_initializer(outside("m.data", **more)).SerializeToString())
    assert_refused(home, "m.onnx", False)


def test_an_offset_that_is_no_number_and_a_place_that_is_said_twice(home: Path) -> None:
    Path("m.data").write_bytes(SECRET.tobytes())
    for key, value in (("offset", "x"), ("location", "m.data"), ("location", "../secret")):
        tensor = outside("m.data")
        tensor.external_data.add(key=key, value=value)
        Path("m.onnx").write_bytes(in_an_initializer(tensor).SerializeToString())
        assert_refused(home, "m.onnx", False)


def test_a_pipe_is_no_data_and_no_model(home: Path) -> None:
    """Opened, it would have us wait for ever."""
    os.mkfifo("pipe")
    Path("m.onnx").write_bytes(in_an_initializer(outside("pipe")).SerializeToString())
    assert_refused(home, "m.onnx", False)
    with pytest.raises(kx.KronfxError, match="no regular file"):
        kx.sparsify_onnx("pipe", home / "out" / "m.onnx", tune=False)
    with pytest.raises(kx.KronfxError, match="no regular file"):
        kx.inspect("pipe")


@pytest.mark.parametrize("place", PLACES)
def test_to_inspect_a_file_reads_no_other(home: Path, place: Place) -> None:
    Path("m.onnx").write_bytes(place(outside("../secret")).SerializeToString())
    (home / "secret").unlink()  # nobody could
    assert kx.inspect("m.onnx") is not None
