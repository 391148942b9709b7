"""Runs the bare model: the service's own embedder in this process with nothing around it. All ratios refer to it.

Run as a module, this file measures the bare cold start. It loads the model, embeds one text, prints a line and ends.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from memory_service.embedding.embedder import TextWindow, Vectors
from memory_service.embedding.minilm import MiniLM, Precision
from memory_service.embedding.queue import EMBED_TOKENS_MAX

PROGRESS_TEXTS = 1_000


class BareModel:
    """The model with as many threads as the service uses by default."""

    def __init__(self, precision: Precision = "fp32") -> None:
        self._model = MiniLM.load(precision=precision)
        self.fingerprint = self._model.fingerprint

    def embed_one(self, text: str) -> Vectors:
        """Return the vectors (windows, dim) of a text, as a retrieve or a single store needs them."""
        return self._model.embed(self._model.windows(text))

    def embed_all(self, texts: Sequence[str], *, progress: str | None = None) -> list[Vectors]:
        """Return the vectors (windows, dim) of each text, as a batch store needs them.

        Windows of similar length share a run of the model.

        Args:
            texts: the texts, in any order.
            progress: name of the work for lines on stderr; None prints nothing.

        """
        cut = [self._model.windows(text) for text in texts]
        owners = [owner for owner, windows in enumerate(cut) for _ in windows]
        flat = [window for windows in cut for window in windows]
        vectors = np.empty((len(flat), self.fingerprint.dim), np.float32)
        order = sorted(range(len(flat)), key=lambda at: len(flat[at].ids))
        done = 0
        for run in _runs(order, flat):
            # (run, dim) into the places of these windows, so that `vectors` keeps the order of the texts.
            vectors[run] = self._model.embed([flat[at] for at in run])
            if progress and (done + len(run)) // PROGRESS_TEXTS > done // PROGRESS_TEXTS:
                print(f"{progress}: {done + len(run)} of {len(flat)}", file=sys.stderr)
            done += len(run)
        # (texts,) the end of each text's windows; they cut (windows, dim) into one part for each text.
        ends = np.cumsum(np.bincount(owners, minlength=len(texts)))
        return np.split(vectors, ends[:-1])


def _runs(order: Sequence[int], windows: Sequence[TextWindow]) -> Iterator[list[int]]:
    """Yield runs of at most `EMBED_TOKENS_MAX` padded tokens. `order` sorts the windows by length, shortest first."""
    run: list[int] = []
    for at in order:
        if run and len(windows[at].ids) * (len(run) + 1) > EMBED_TOKENS_MAX:
            yield run
            run = []
        run.append(at)
    if run:
        yield run


if __name__ == "__main__":
    BareModel().embed_one("what does Dana drink?")
    print("embedded", flush=True)
