"""Makes minilm.onnx: the computation of all-MiniLM-L6-v2 for ONNX Runtime, without its weights.

The graph names every weight by its place in the published model.safetensors, so that ONNX Runtime maps them
straight from that file and no second copy of 90 MB is stored anywhere. It uses ONNX Runtime's fused operators
(domain com.microsoft), which are the ones its own optimizer would put in place of the plain ones.

Run `python -m memory_service.minilm_graph` after a change here. `onnx` is needed for this alone, not to serve.
Above it is nothing; minilm.py reads what it writes.

Architecture: Devlin et al., "BERT" (2018), with the sizes of the model's config.json; pooling and length as in
Reimers and Gurevych, "Sentence-BERT" (2019).
"""

import json
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from memory_service.minilm import DIM, GRAPH, packaged_folder

LAYERS = 6
HEADS = 12
EPSILON = 1e-12  # layer_norm_eps of config.json
FUSED = "com.microsoft"
# The oldest versions that have these operators, so that many releases of ONNX Runtime read the graph.
OPSET, IR_VERSION = 17, 8


def build(weights: Path) -> ModelProto:
    """The model as a graph over (ids, mask), int32 of shape (texts, pieces), to unit vectors (texts, 384)."""
    graph = _Graph(weights)
    hidden = graph.embeddings()
    for layer in range(LAYERS):
        hidden = graph.encoder_layer(f"encoder.layer.{layer}", hidden)
    graph.pooled(hidden, "vectors")
    return graph.model()


class _Graph:
    """Collects nodes and weights; every method adds some and returns the name of its result."""

    def __init__(self, weights: Path) -> None:
        self._file = weights.name
        self._header, self._data_at = _read_header(weights)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def embeddings(self) -> str:
        tables = [self.weight(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")]
        norm = self._norm("embeddings.LayerNorm")
        segments = self.node("Sub", ["ids", "ids"], "segments")  # a lone text is segment 0 throughout
        inputs = ["ids", segments, *tables, *norm, "mask"]
        self.fused("EmbedLayerNormalization", inputs, "embedded", "lengths", epsilon=EPSILON)
        return "embedded"

    def encoder_layer(self, name: str, hidden: str) -> str:
        attended = self.attention(f"{name}.attention.self", hidden)
        seen = self.sublayer(f"{name}.attention.output", attended, hidden)
        inner = self.matmul(f"{name}.intermediate.dense", seen)
        bias = self.weight(f"{name}.intermediate.dense.bias")
        active = self.fused("BiasGelu", [inner, bias], f"{name}.gelu")
        return self.sublayer(f"{name}.output", active, seen)

    def attention(self, name: str, hidden: str) -> str:
        # The operator wants the three projections in one matrix. ONNX Runtime joins them once, while it loads.
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        rows = self.node("Concat", [self.weight(f"{part}.weight") for part in parts], f"{name}.rows", axis=0)
        matrix = self.node("Transpose", [rows], f"{name}.matrix", perm=[1, 0])
        bias = self.node("Concat", [self.weight(f"{part}.bias") for part in parts], f"{name}.bias", axis=0)
        return self.fused("Attention", [hidden, matrix, bias, "lengths"], name, num_heads=HEADS)

    def sublayer(self, name: str, inner: str, residual: str) -> str:
        """A linear layer, the residual connection around it, and layer normalization."""
        out = self.matmul(f"{name}.dense", inner)
        inputs = [out, residual, *self._norm(f"{name}.LayerNorm"), self.weight(f"{name}.dense.bias")]
        return self.fused("SkipLayerNormalization", inputs, f"{name}.normed", epsilon=EPSILON)

    def pooled(self, hidden: str, out: str) -> None:
        """The mean over a text's pieces, scaled to length 1, which makes the mean's division needless."""
        self._weights.append(helper.make_tensor("row", TensorProto.INT64, [1], [1]))
        mask = self.node("Cast", ["mask"], "weight_of_piece", to=TensorProto.FLOAT)
        rows = self.node("Unsqueeze", [mask, "row"], "row_of_weights")
        sums = self.node("Squeeze", [self.node("MatMul", [rows, hidden], "row_of_sums"), "row"], "sums")
        self.node("LpNormalization", [sums], out, axis=1, p=2)

    def matmul(self, name: str, inner: str) -> str:
        # The published matrices are (outputs, inputs); ONNX Runtime turns them round as it packs them at loading.
        return self.fused("FusedMatMul", [inner, self.weight(f"{name}.weight")], f"{name}.product", transB=1)

    def _norm(self, name: str) -> list[str]:
        return [self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]

    def node(self, operator: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [out], **attributes))
        return out

    def fused(self, operator: str, inputs: list[str], *outs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, outs, domain=FUSED, **attributes))
        return outs[0]

    def weight(self, name: str) -> str:
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._file, "offset": self._data_at + begin, "length": end - begin}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._weights.append(tensor)
        return name

    def model(self) -> ModelProto:
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT32, ["texts", "pieces"]) for n in ("ids", "mask")]
        outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", DIM])]
        graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _read_header(weights: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    """What a safetensors file says of its tensors, and where their bytes begin.

    Format: https://huggingface.co/docs/safetensors (8 bytes of length, that much JSON, then the data).
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


if __name__ == "__main__":
    model = build(packaged_folder() / "model.safetensors")
    Path(__file__).with_name(GRAPH).write_bytes(model.SerializeToString(deterministic=True))
