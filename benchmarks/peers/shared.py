"""Makes vectors once for all peers, so that a run embeds its texts once and not once for each peer."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.bare_model import BareModel


def write(folder: Path, texts: Iterable[str], progress: str) -> Path:
    """Embed distinct texts with the service's model, and write their vectors for `Embedder.know` to read.

    A long text gets the vector of its first window.
    """
    folder.mkdir()
    distinct = list(dict.fromkeys(texts))
    # (texts, dim)
    rows = np.stack([windows[0] for windows in BareModel().embed_all(distinct, progress=progress)])
    np.save(folder / "vectors.npy", rows)
    (folder / "texts.json").write_text(json.dumps(distinct), encoding="utf-8")
    return folder
