"""Makes minilm.onnx and minilm_int8.onnx: the computation of all-MiniLM-L6-v2 for ONNX Runtime, without its weights.

A graph names every weight by its place in the published model.safetensors, so that ONNX Runtime maps them
straight from that file and no second copy of 90 MB is stored anywhere. It uses ONNX Runtime's fused operators
(domain com.microsoft), which are the ones its own optimizer would put in place of the plain ones. The int8 graph
says how the weights are rounded, in operators too, which ONNX Runtime runs once, while it loads.

Run `python -m scripts.minilm_graph` after a change here. `onnx` is needed for this alone, not to serve.
Above it is nothing; minilm.py reads what it writes.

Architecture: Devlin et al., "BERT" (2018), with the sizes of the model's config.json; pooling and length as in
Reimers and Gurevych, "Sentence-BERT" (2019).
"""

import json
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from memory_service.embedding import minilm
from memory_service.embedding.minilm import DIM, GRAPHS, Precision, packaged_folder

LAYERS = 6
HEADS = 12
EPSILON = 1e-12  # layer_norm_eps of config.json
FUSED = "com.microsoft"
# The oldest versions that have these operators, so that many releases of ONNX Runtime read the graph.
OPSET, IR_VERSION = 17, 8

BLOCK = 32
"""Neighbouring components that share a scale in the attention's projections, where int8 costs most: a scale for each
row and column there doubles the error of the vectors (1 - cosine), larger blocks are little faster."""

STEPS = 127.0
"""The largest integer, for the largest of the numbers that share a scale."""

CENTRE = 128
"""The unsigned byte that stands for 0."""

GELU_LEAST, GELU_ZERO = 0.17, 16
"""GELU gives nothing below -0.16998, so 16 of the 256 bytes are enough for what is negative there."""


def build(weights: Path, precision: Precision = "fp32") -> ModelProto:
    """Return the model as a graph over (ids, mask), int32 of shape (texts, pieces), to unit vectors (texts, 384)."""
    graph = _Int8Graph(weights) if precision == "int8" else _Graph(weights)
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
        self._constants: set[str] = set()

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
        """Return a linear layer, the residual connection around it, and layer normalization."""
        out = self.matmul(f"{name}.dense", inner)
        inputs = [out, residual, *self._norm(f"{name}.LayerNorm"), self.weight(f"{name}.dense.bias")]
        return self.fused("SkipLayerNormalization", inputs, f"{name}.normed", epsilon=EPSILON)

    def pooled(self, hidden: str, out: str) -> None:
        """The mean over a text's pieces, scaled to length 1, which makes the mean's division needless."""
        self.constant("row", [1], TensorProto.INT64)
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

    def constant(self, name: str, value: list[int] | float, type: int = TensorProto.FLOAT) -> str:
        """Return a list or a single number, kept once for each name."""
        if name not in self._constants:
            self._constants.add(name)
            dims = [len(value)] if isinstance(value, list) else []
            self._weights.append(helper.make_tensor(name, type, dims, value if isinstance(value, list) else [value]))
        return name

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


class _Int8Graph(_Graph):
    """The same with integer matrix products; what lies between them (norms, softmax, GELU, pooling) stays in fp32.

    What is rounded here depends on its own row alone, never on the other texts of a batch: a scale for a whole tensor,
    as `DynamicQuantizeLinear` has it, would give a text another vector in every company.
    """

    def attention(self, name: str, hidden: str) -> str:
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        rows = self.node("Concat", [self.weight(f"{part}.weight") for part in parts], f"{name}.rows", axis=0)
        bias = self.node("Concat", [self.weight(f"{part}.bias") for part in parts], f"{name}.bias", axis=0)
        projected = self.blockwise(name, hidden, rows)
        projections = [f"{part}.projection" for part in parts]
        thirds = self.constant("thirds", [DIM, DIM, DIM], TensorProto.INT64)
        self._nodes.append(helper.make_node("Split", [projected, thirds], projections, axis=-1))
        return self.fused("MultiHeadAttention", [*projections, bias, "mask"], name, num_heads=HEADS)

    def blockwise(self, name: str, hidden: str, rows: str) -> str:
        """The product with a matrix (3 * 384, 384) in blocks; the operator rounds `hidden` in the same blocks."""
        outputs, blocks = 3 * DIM, DIM // BLOCK
        shape = self.constant("blocks", [outputs, blocks, BLOCK], TensorProto.INT64)
        weights = self.node("Reshape", [rows, shape], f"{name}.blocks")
        scales = self.scales(name, weights, axis=-1)
        steps = self.node("Round", [self.node("Div", [weights, scales], f"{name}.ratios")], f"{name}.steps")
        centred = self.node("Add", [steps, self.constant("centre", float(CENTRE))], f"{name}.centred")
        bytes_ = self.node("Cast", [centred], f"{name}.bytes", to=TensorProto.UINT8)
        flat = self.constant("flat", [outputs, blocks], TensorProto.INT64)
        scales = self.node("Reshape", [scales, flat], f"{name}.flat_scales")
        # Accuracy level 4 has the operator compute in integers; without it it would turn the weights back to fp32.
        sizes = {"K": DIM, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        return self.fused("MatMulNBits", [hidden, bytes_, scales], f"{name}.projected", **sizes)

    def matmul(self, name: str, inner: str) -> str:
        """Return the product with a scale for each column of the matrix and for each row of `inner`."""
        matrix = self.node("Transpose", [self.weight(f"{name}.weight")], f"{name}.matrix", perm=[1, 0])
        columns = self.scales(name, matrix, axis=0)
        steps = self.node("Round", [self.node("Div", [matrix, columns], f"{name}.ratios")], f"{name}.steps")
        weights = self.node("Cast", [steps], f"{name}.int8", to=TensorProto.INT8)
        columns = self.node("Squeeze", [columns], f"{name}.columns")
        rows, zero = self.scales_of_rows(name, inner)
        one = self.constant("one", 1.0)
        ratios = self.node("Div", [inner, rows], f"{name}.row_ratios")
        rounded = self.node("QuantizeLinear", [ratios, one, zero], f"{name}.rounded")
        product = self.fused("MatMulIntegerToFloat", [rounded, weights, one, columns, zero], f"{name}.by_column")
        return self.node("Mul", [product, rows], f"{name}.product")

    def scales(self, name: str, weights: str, axis: int) -> str:
        peaks = self.node("ReduceMax", [self.node("Abs", [weights], f"{name}.sizes")], f"{name}.peaks", axes=[axis])
        return self.node("Div", [peaks, self.constant("steps", STEPS)], f"{name}.scales")

    def scales_of_rows(self, name: str, inner: str) -> tuple[str, str]:
        """Return what a step is worth in each row (texts, pieces, 1), and the byte for 0."""
        if name.endswith(".output.dense") and ".attention." not in name:  # what GELU gave
            zero = self.constant("gelu_zero", GELU_ZERO, TensorProto.UINT8)
            steps, least = self.constant("gelu_steps", 255.0 - GELU_ZERO), GELU_LEAST / GELU_ZERO
            sizes, floor = inner, self.constant("gelu_floor", least)
        else:
            zero = self.constant("zero", CENTRE, TensorProto.UINT8)
            steps, floor = self.constant("steps", STEPS), self.constant("floor", 1e-9)  # no division by 0
            sizes = self.node("Abs", [inner], f"{name}.row_sizes")
        peaks = self.node("ReduceMax", [sizes], f"{name}.row_peaks", axes=[-1])
        scales = self.node("Div", [peaks, steps], f"{name}.row_steps")
        return self.node("Max", [scales, floor], f"{name}.row_scales"), zero


def _read_header(weights: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    """Return what a safetensors file says of its tensors, and where their bytes begin.

    Format: https://huggingface.co/docs/safetensors (8 bytes of length, that much JSON, then the data).
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


if __name__ == "__main__":
    for precision, name in GRAPHS.items():
        model = build(packaged_folder() / "model.safetensors", precision)
        Path(minilm.__file__).with_name(name).write_bytes(model.SerializeToString(deterministic=True))
