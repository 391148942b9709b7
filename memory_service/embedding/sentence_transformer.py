"""Any model of the sentence-transformers library, on a GPU if torch sees one: the optional embedder.

It is for people who want another model than MiniLM and accept torch's size and start time. It cuts texts with the
model's own tokenizer and passes the ids on, so the model reads exactly what was cut. Texts and queries are embedded
alike: the prompts that some models put before a query are not used, and the log says so.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from memory_service.embedding import minilm
from memory_service.embedding.embedder import Fingerprint, TextWindow, Vectors
from memory_service.embedding.windows import Cutter, pad_windows
from vector_memory.errors import StartupError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)


class SentenceTransformerEmbedder:
    """A loaded model of the library. It is thread-safe."""

    def __init__(self, model: "SentenceTransformer", name: str, revision: str) -> None:
        """Use `load` instead."""
        self._model = model
        self._pad_id = model.tokenizer.pad_token_id or 0
        self._cutter = _cutter(model, name)
        dim = self._run(self.windows("")).shape[1]
        self.fingerprint = Fingerprint(name, revision, dim, _pooling(model))

    @classmethod
    def load(cls, model: str, device: str | None = None) -> Self:
        """Load a model, and download it from the hub unless it is a folder or was downloaded before.

        Args:
            model: a folder, or a name on the hub such as `BAAI/bge-small-en-v1.5`.
            device: torch's name of a device, such as `cpu` or `cuda`; None takes the best one.

        Raises:
            StartupError: the library is not installed, it cannot load the model, or the model has no fast tokenizer or
                no stated limit of length.
        """
        loaded = _load(model, device)
        _log_prompts(loaded, model)
        folder = _folder(model)
        revision = _weights_sha256(folder)
        # MiniLM is the same model in both embedders, so a data folder made with one of them serves the other.
        name = minilm.MODEL if revision == minilm.REVISION else _name(model)
        return cls(loaded, name, revision)

    def windows(self, text: str) -> list[TextWindow]:
        """Cut a text into windows of at most the model's own limit; see `Cutter.cut`."""
        return self._cutter.cut(text)

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Embed windows in one run of the model, with every row padded to the longest. Callers batch by tokens."""
        return self._run(windows) if windows else np.empty((0, self.fingerprint.dim), np.float32)

    def _run(self, windows: Sequence[TextWindow]) -> Vectors:
        import torch

        ids, mask = (
            torch.from_numpy(part).long().to(self._model.device) for part in pad_windows(windows, self._pad_id)
        )
        # ids and mask are (windows, tokens), the vectors (windows, dim).
        with torch.inference_mode():
            vectors = self._model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            unit: Vectors = torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()
        return unit


def _load(model: str, device: str | None) -> "SentenceTransformer":
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise StartupError(
            "A sentence-transformers model needs the library and torch: run `pip install '.[sentence-transformers]'`."
        ) from error
    transformers_logging.disable_progress_bar()  # standard error is for log lines
    try:
        # eval: a model in training mode would drop parts of its input at random.
        return SentenceTransformer(model, device=device).eval()
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise StartupError(
            f"sentence-transformers cannot load {model!r}: {reason}. MEMORY_EMBEDDER takes the folder of a model that "
            "the library saved, or a model's name on a hub that this machine reaches or has fetched it from before."
        ) from error


def _cutter(model: "SentenceTransformer", name: str) -> Cutter:
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise StartupError(f"The model {name!r} has no fast tokenizer, which is needed to cut long texts at words.")
    if model.max_seq_length is None:
        message = f"The model {name!r} does not say how long a text it reads: set max_seq_length in its folder."
        raise StartupError(message)
    # Copy it, because the library switches the truncation of its own tokenizer on and off.
    return Cutter(Tokenizer.from_str(backend.to_str()), model.max_seq_length)


def _pooling(model: "SentenceTransformer") -> str:
    """Return the pooling layer's mode, such as "mean" or "cls"; "own" for a model without such a layer."""
    modes = next((layer.pooling_mode for layer in model if hasattr(layer, "pooling_mode")), "own")
    return modes if isinstance(modes, str) else "+".join(modes)


def _log_prompts(model: "SentenceTransformer", name: str) -> None:
    unused = sorted(key for key, prompt in model.prompts.items() if prompt)
    if unused:
        log.warning("embedder.prompts_unused", extra={"model": name, "prompts": unused})


def _folder(model: str) -> Path:
    """Return the folder of a model that was just loaded."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(_name(model), local_files_only=True))


def _name(model: str) -> str:
    """The model's full name on the hub. A folder counts by its last part, since its parents differ between machines."""
    if Path(model).is_dir():
        return Path(model).resolve().name
    return model if "/" in model else f"sentence-transformers/{model}"  # the library's rule for short names


def _weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights file; of several files, the sha256 of all their names and sums."""
    files = _weights_files(folder)
    if not files:
        raise StartupError(f"There are no weights in {folder}.")
    sums = [_sha256(file) for file in files]
    # One file counts by its own sum, so the sha256 that a hub shows is the revision.
    if len(sums) == 1:
        return sums[0]
    lines = (f"{digest}  {file.relative_to(folder)}\n" for digest, file in zip(sums, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weights_files(folder: Path) -> list[Path]:
    """The weights that the library reads: in the folders of modules.json, safetensors before torch's older format.

    A model's folder may hold the same weights again in formats for other programs.
    """
    listing = folder / "modules.json"
    paths = {module["path"] for module in json.loads(listing.read_text())} if listing.exists() else {""}
    files: list[Path] = []
    for path in sorted(paths):
        files += sorted((folder / path).glob("*.safetensors")) or sorted((folder / path).glob("pytorch_model*.bin"))
    return files


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
