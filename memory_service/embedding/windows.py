"""Cutting a text into windows that a model reads whole: the part that every embedder shares.

A tokenizer makes pieces of a text: words, or parts of rare words. The pieces are cut into overlapping ranges,
and each range becomes the stretch of text it came from with the ids that the model reads. Nothing here knows
a model; `minilm.py` and `sentence_transformer.py` do.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_service.embedding.embedder import TextWindow
from vector_memory.errors import InvalidInput

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# About two sentences: what stands at a seam is read whole by one of its two windows, for an eighth more work.
OVERLAP_PIECES = 32


class Cutter:
    """Cuts texts with one model's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: "Tokenizer", pieces_max: int) -> None:
        """Args:
        tokenizer: becomes the cutter's own; its truncation and padding are switched off.
        pieces_max: what the model reads at once, special tokens included.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prefix, self._suffix = _special_tokens(tokenizer)
        self._limit = pieces_max - len(self._prefix) - len(self._suffix)
        self._overlap = min(OVERLAP_PIECES, self._limit // 2)

    def cut(self, text: str) -> list[TextWindow]:
        """Windows that together hold every character of the text; one that is the text itself if it fits.

        Raises:
            InvalidInput: the text holds half of a surrogate pair, which is no character.
        """
        _require_characters(text)
        # A batch of one, because the library lets other threads run only while it encodes batches.
        pieces = self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
        ids = pieces.ids
        if len(ids) <= self._limit:
            return [self._window(text, ids)]
        starts = [begin for begin, _ in pieces.offsets]
        edges = [0, *starts[1:], len(text)]
        ranges = window_ranges(_word_starts(text, starts, pieces), self._limit, self._overlap)
        return [self._window(text[edges[begin] : edges[end]], ids[begin:end]) for begin, end in ranges]

    def _window(self, text: str, ids: Sequence[int]) -> TextWindow:
        return TextWindow(text, (*self._prefix, *ids, *self._suffix))


def window_ranges(word_starts: Sequence[bool], limit: int, overlap: int) -> list[tuple[int, int]]:
    """Cut pieces into overlapping ranges of whole words.

    A word longer than `limit` is cut between its pieces as if each were a word. Otherwise ranges begin and end at
    word starts, and neighbours share at least `overlap` pieces, less only where the next word would not fit.

    Args:
        word_starts: for every piece, whether it begins a word.
        limit: pieces of a range, at most; at least 1.
        overlap: pieces that neighbours share; below `limit`.

    Returns:
        (begin, end) pairs, both rising from range to range, from 0 to the number of pieces without a gap.
    """
    cuts = _allowed_cuts(word_starts, limit)
    begin, ranges = 0, []
    while True:
        last = bisect_right(cuts, begin + limit) - 1
        end = cuts[last]
        ranges.append((begin, end))
        if end == len(word_starts):
            return ranges
        shared = cuts[max(0, bisect_right(cuts, end - overlap) - 1)]
        # The next range must reach further than this one, so it cannot begin before this.
        earliest = cuts[bisect_left(cuts, cuts[last + 1] - limit)]
        begin = max(shared, earliest)


def _allowed_cuts(word_starts: Sequence[bool], limit: int) -> list[int]:
    """Where a range may begin or end, in order: 0, the word starts, places inside overlong words, the end."""
    words = [0, *(i for i, start in enumerate(word_starts) if start and i), len(word_starts)]
    cuts = [0]
    for begin, end in pairwise(words):
        cuts.extend(range(begin + 1, end + 1) if end - begin > limit else [end])
    return cuts


def padded(windows: Sequence[TextWindow], pad_id: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The windows' ids, each row filled up to the longest one's length.

    Returns:
        (ids, mask) of shape (windows, pieces); the mask is 1 for ids and 0 for padding, which is on the right.
    """
    shape = len(windows), max((len(window.ids) for window in windows), default=0)
    ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
    return ids, mask


def _word_starts(text: str, starts: Sequence[int], pieces: "Encoding") -> list[bool]:
    """Which pieces begin a word: by the tokenizer's own account, or else by the white space before them."""
    words = pieces.word_ids
    if len(set(words)) > 1:
        return [words[i] != words[i - 1] for i in range(len(words))]
    # Some tokenizers do not split a text into words first, and so count it as a single one.
    around = (text[max(0, start - 1) : start + 1] for start in starts)
    return [pair != pair.strip() for pair in around]


def _special_tokens(tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after every text, such as [CLS] and [SEP]."""
    sample = tokenizer.encode("a")
    begin = sample.special_tokens_mask.index(0)
    end = begin + sample.special_tokens_mask.count(0)
    return sample.ids[:begin], sample.ids[end:]


def _require_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"The text is not valid Unicode: character {error.start} is half of a surrogate pair."
        raise InvalidInput(message) from error
