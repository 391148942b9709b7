"""The committed graphs are what their source makes, and hold no weights."""

from importlib.resources import files

import pytest

onnx = pytest.importorskip("onnx", reason="onnx is needed only to make the graph; `make install` brings it")

from memory_service.embedding.minilm import GRAPHS, Precision, packaged_folder  # noqa: E402 - after the check for onnx
from scripts.minilm_graph import build  # noqa: E402

every_precision = pytest.mark.parametrize("precision", GRAPHS)


@every_precision
def test_regenerating_the_graph_gives_the_committed_one(precision: Precision) -> None:
    """Compared as parsed messages, since releases of onnx may write the same message in other bytes.

    When this fails, run `python -m scripts.minilm_graph` and commit its result.
    """
    committed = onnx.load_from_string((files("memory_service.embedding") / GRAPHS[precision]).read_bytes())
    assert committed == build(packaged_folder() / "model.safetensors", precision)


@every_precision
def test_the_committed_graph_holds_no_weights(precision: Precision) -> None:
    graph = onnx.load_from_string((files("memory_service.embedding") / GRAPHS[precision]).read_bytes()).graph
    inside = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    assert "row" in [tensor.name for tensor in inside]
    assert all(tensor.ByteSize() < 64 for tensor in inside), "shapes and single numbers alone"


@every_precision
def test_the_graph_uses_every_tensor_of_the_weights_but_the_unused_pooler(precision: Precision) -> None:
    """BERT's pooler was trained for another task and is no part of mean pooling."""
    safetensors = pytest.importorskip("safetensors")
    weights = packaged_folder() / "model.safetensors"
    with safetensors.safe_open(weights, "numpy") as file:
        published = {name for name in file.keys() if "pooler" not in name and "position_ids" not in name}  # noqa: SIM118
    tensors = build(weights, precision).graph.initializer
    used = {tensor.name for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert used == published
