"""Any model of the sentence-transformers library, on a GPU where torch sees one: the optional embedder.

For people who want another model than MiniLM and accept torch's size and start time. It cuts texts with the
model's own tokenizer and gives the model those ids, so that what was cut is exactly what is read. Texts and
queries are embedded alike: the prompts that some models put before a query are not used, which is logged.
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
from memory_service.embedding.windows import Cutter, padded
from vector_memory.errors import StartupError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)


class SentenceTransformerEmbedder:
    """A loaded model of the library. Thread-safe."""

    def __init__(self, model: "SentenceTransformer", name: str, revision: str) -> None:
        """For `load`, which is the way to get one."""
        self._model = model
        self._pad_id = model.tokenizer.pad_token_id or 0
        self._cutter = _cutter(model, name)
        dim = self._run(self.windows("")).shape[1]
        self.fingerprint = Fingerprint(name, revision, dim, _pooling(model))

    @classmethod
    def load(cls, model: str, device: str | None = None) -> Self:
        """Load a model, fetching it from the hub where it is neither a folder nor fetched before.

        Args:
            model: a folder, or a name on the hub such as `BAAI/bge-small-en-v1.5`.
            device: torch's name of one, such as `cpu` or `cuda`; None takes the best there is.

        Raises:
            StartupError: the library is not installed, or it cannot load the model, or the model has no fast tokenizer
                or no stated limit of length.
        """
        loaded = _load(model, device)
        _log_prompts(loaded, model)
        folder = _folder(model)
        revision = _weights_sha256(folder)
        # The packaged MiniLM is the same model in either embedder, so a data folder made with one serves the other.
        name = minilm.MODEL if revision == minilm.REVISION else _name(model)
        return cls(loaded, name, revision)

    def windows(self, text: str) -> list[TextWindow]:
        """Windows of at most the model's own limit; see `Cutter.cut`."""
        return self._cutter.cut(text)

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Embed windows in one run of the model, every row padded to the longest; callers batch by tokens."""
        return self._run(windows) if windows else np.empty((0, self.fingerprint.dim), np.float32)

    def _run(self, windows: Sequence[TextWindow]) -> Vectors:
        import torch

        ids, mask = (torch.from_numpy(part).long().to(self._model.device) for part in padded(windows, self._pad_id))
        with torch.inference_mode():
            vectors = self._model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            unit: Vectors = torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()
        return unit


def _load(model: str, device: str | None) -> "SentenceTransformer":
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        message = (
            "A sentence-transformers model needs the library and torch: run `pip install '.[sentence-transformers]'`."
        )
        raise StartupError(message) from error
    transformers_logging.disable_progress_bar()  # standard error is for log lines
    try:
        # eval: a model in training mode would drop parts of its input at random.
        return SentenceTransformer(model, device=device).eval()
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        message = (
            f"sentence-transformers cannot load {model!r}: {reason}. MEMORY_EMBEDDER takes the folder of a model that "
            "the library saved, or a model's name on a hub that this machine reaches or has fetched it from before."
        )
        raise StartupError(message) from error


def _cutter(model: "SentenceTransformer", name: str) -> Cutter:
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        message = f"The model {name!r} has no fast tokenizer, which is needed to cut long texts at words."
        raise StartupError(message)
    if model.max_seq_length is None:
        message = f"The model {name!r} does not say how long a text it reads: set max_seq_length in its folder."
        raise StartupError(message)
    # A copy, because the library switches its own tokenizer's truncation on and off as it goes.
    return Cutter(Tokenizer.from_str(backend.to_str()), model.max_seq_length)


def _pooling(model: "SentenceTransformer") -> str:
    """The pooling layer's mode, such as "mean" or "cls"; "own" for a model that pools inside itself."""
    modes = next((layer.pooling_mode for layer in model if hasattr(layer, "pooling_mode")), "own")
    return modes if isinstance(modes, str) else "+".join(modes)


def _log_prompts(model: "SentenceTransformer", name: str) -> None:
    unused = sorted(key for key, prompt in model.prompts.items() if prompt)
    if unused:
        log.warning("embedder.prompts_unused", extra={"model": name, "prompts": unused})


def _folder(model: str) -> Path:
    """Where the files of a model that was just loaded are."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(_name(model), local_files_only=True))


def _name(model: str) -> str:
    """The model's full name on the hub; of a folder the last part, since it may lie elsewhere on another machine."""
    if Path(model).is_dir():
        return Path(model).resolve().name
    return model if "/" in model else f"sentence-transformers/{model}"  # the library's rule for short names


def _weights_sha256(folder: Path) -> str:
    """The sha256 of the weights: the file's own where there is one file, else that of all files' names and sums."""
    files = _weights_files(folder)
    if not files:
        message = f"There are no weights in {folder}."
        raise StartupError(message)
    sums = [_sha256(file) for file in files]
    if len(sums) == 1:
        return sums[0]
    lines = (f"{digest}  {file.relative_to(folder)}\n" for digest, file in zip(sums, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weights_files(folder: Path) -> list[Path]:
    """What the library reads: the folders that modules.json lists, and safetensors before torch's older format.

    A model's folder may hold the same weights again, in formats that other programs read.
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
