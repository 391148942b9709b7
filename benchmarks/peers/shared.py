"""Vectors that are made once for all peers: a run embeds its texts once, not once for each peer."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.bare_model import BareModel


def write(folder: Path, texts: Iterable[str], progress: str) -> Path:
    """Embed distinct texts by the service's model, long ones by their first window, for `Embedder.know` to read."""
    folder.mkdir()
    distinct = list(dict.fromkeys(texts))
    rows = np.stack([windows[0] for windows in BareModel().embed_all(distinct, progress=progress)])
    np.save(folder / "vectors.npy", rows)
    (folder / "texts.json").write_text(json.dumps(distinct), encoding="utf-8")
    return folder
