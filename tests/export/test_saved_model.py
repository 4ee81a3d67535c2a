"""A version is written whole or not at all, and holds what the contract promises."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from export.fingerprint import exporter_fingerprint
from export.saved_model import ExportError, next_version, write_version
from export.warmup import read_warmup
from gateway import contract


@pytest.fixture(scope="module")
def version(tiny_models: Path) -> Path:
    return tiny_models / "1"


@pytest.fixture(scope="module")
def meta_graph(version: Path) -> meta_graph_pb2.MetaGraphDef:
    content = (version / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]


def described(tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's dtype and shape, -1 where any size is taken."""
    return {
        name: (
            tf.dtypes.as_dtype(info.dtype).name,
            tuple(dimension.size for dimension in info.tensor_shape.dim),
        )
        for name, info in tensors.items()
    }


def test_the_signatures_are_the_contracts(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Names, dtypes and shapes, the batch first and of any size, as a server reads them."""
    signatures = meta_graph.signature_def
    assert set(signatures) - {"__saved_model_init_op"} == {"serving_default", "gradcam"}
    images = {"images": ("uint8", (-1, 224, 224, 3))}
    answer = {
        "probabilities": ("float32", (-1, 4)),
        "logits": ("float32", (-1, 4)),
        "unfamiliarity": ("float32", (-1,)),
    }
    assert described(signatures["serving_default"].inputs) == images
    assert described(signatures["serving_default"].outputs) == answer
    assert described(signatures["gradcam"].inputs) == images | {"class_index": ("int32", (-1,))}
    assert described(signatures["gradcam"].outputs) == answer | {
        "conv_features": ("float32", (-1, 4, 4, 8)),  # 512 channels in the real network
        "gradients": ("float32", (-1, 4, 4, 8)),
        "cam": ("float32", (-1, 4, 4)),
        "cam_fine": ("float32", (-1, 18, 18)),
    }


def test_the_weights_are_constants(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """No operation holds or reads a variable: those fail in the real server."""
    graph = meta_graph.graph_def
    operations = {node.op for node in graph.node}
    for function in graph.library.function:
        operations |= {node.op for node in function.node_def}
    assert "Conv2D" in operations
    assert not {name for name in operations if "Var" in name}


def test_the_card_is_inside_with_its_version(tiny_models: Path) -> None:
    """What was handed in, and the version's number."""
    card = json.loads((tiny_models / "1" / contract.MODEL_CARD_FILE).read_text())
    assert card == {"name": "tiny", "version": 1, "exporter": exporter_fingerprint()}


def test_the_warm_up_covers_signatures_and_batches(version: Path) -> None:
    """Both signatures with 1, 2 and 4 photographs, and what the gateway asks for as well."""
    found = {
        (
            request.model_spec.signature_name,
            request.inputs["images"].tensor_shape.dim[0].size,
            tuple(request.output_filter),
        )
        for request in read_warmup(version)
    }
    assert found == {
        (signature, batch, outputs)
        for signature, outputs in (
            ("serving_default", ()),
            ("gradcam", ()),
            ("gradcam", ("probabilities", "unfamiliarity", "cam", "cam_fine")),
        )
        for batch in (1, 2, 4)
    }


def test_every_warm_up_request_runs(version: Path, model_server: str) -> None:
    """A server answers each with a row a photograph: one that failed would fail the load."""
    with grpc.insecure_channel(model_server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for request in read_warmup(version):
            reply = stub.Predict(request, timeout=30)
            batch = request.inputs["images"].tensor_shape.dim[0].size
            assert {t.tensor_shape.dim[0].size for t in reply.outputs.values()} == {batch}
            assert set(request.output_filter) <= set(reply.outputs)


def test_a_damaged_warm_up_is_noticed(version: Path, tmp_path: Path) -> None:
    """Records have checksums, and a file that is cut short or altered is refused."""
    copy = shutil.copytree(version, tmp_path / "1")
    path = copy / contract.WARMUP_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        read_warmup(copy)
    path.write_bytes(content[:-10])
    with pytest.raises(tf.errors.DataLossError):
        read_warmup(copy)
    path.unlink()
    with pytest.raises(tf.errors.NotFoundError):
        read_warmup(copy)


def test_the_next_version_is_above_all_there_are(tmp_path: Path) -> None:
    """Gaps are not filled, and what is no number does not count."""
    assert next_version(tmp_path / "nowhere") == 1
    assert next_version(tmp_path) == 1
    for name in ("2", "10", "9.old", ".11.new", "twelve"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11


def test_versions_follow_one_another(tiny_network, tmp_path: Path) -> None:
    """Unless told its number, a version is the next; each card says which."""
    first = write_version(tiny_network, {}, tmp_path / "models")
    named = write_version(tiny_network, {}, tmp_path / "models", version=7)
    after = write_version(tiny_network, {}, tmp_path / "models")
    assert [path.name for path in (first, named, after)] == ["1", "7", "8"]
    assert json.loads((after / contract.MODEL_CARD_FILE).read_text())["version"] == 8
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["1", "7", "8"]


def test_an_existing_version_is_refused_and_kept(tiny_network, tmp_path: Path) -> None:
    """What was published once is never changed."""
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "mark").write_text("published")
    with pytest.raises(ExportError, match=r"3 exists; published versions are never changed"):
        write_version(tiny_network, {}, tmp_path, version=3)
    assert (tmp_path / "3" / "mark").read_text() == "published"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize("number", [0, -1])
def test_a_version_below_one_is_refused(tiny_network, tmp_path: Path, number: int) -> None:
    """Versions are positive numbers; nothing is made for others."""
    base = tmp_path / "models"
    with pytest.raises(ExportError, match=f"version {number} is not a positive number"):
        write_version(tiny_network, {}, base, version=number)
    assert not base.exists()


def test_nothing_is_left_of_a_version_that_failed(tiny_network, tmp_path: Path) -> None:
    """A card that JSON cannot hold comes last of all, and still leaves an empty base."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_version(tiny_network, {"measured": object()}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert write_version(tiny_network, {}, tmp_path).name == "1"


def test_a_version_appears_whole(tiny_network, tmp_path: Path) -> None:
    """Who watches the folder never finds a numbered version without all of its parts."""
    parts = ("saved_model.pb", contract.WARMUP_FILE, contract.MODEL_CARD_FILE)
    written, seen, incomplete = threading.Event(), [], []

    def watch() -> None:
        while not written.is_set() or not seen:
            for path in tmp_path.iterdir():
                if path.name.isdigit():
                    seen.append(path)
                    incomplete.extend(part for part in parts if not (path / part).is_file())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        write_version(tiny_network, {}, tmp_path, version=1)
    finally:
        written.set()
        (tmp_path / "1").mkdir(exist_ok=True)  # so that the watcher ends, whatever happened
        watcher.join()
    assert seen
    assert incomplete == []
