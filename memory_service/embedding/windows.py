"""Cutting a text into windows that a model reads at once: the part that all embedders share.

A tokenizer splits a text into tokens: words, or parts of rare words. The tokens are cut into overlapping ranges. Each
range becomes a window: the part of the text that it came from, and the ids that the model reads. This module knows no
model; `minilm.py` and `sentence_transformer.py` do.
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

OVERLAP_TOKENS = 32
"""Tokens that neighbouring windows share: about two sentences. So every sentence is whole in one of the windows, for an
eighth more work."""


class Cutter:
    """Cuts texts with one model's tokenizer. It is thread-safe."""

    def __init__(self, tokenizer: "Tokenizer", tokens_max: int) -> None:
        """Args:
        tokenizer: belongs to the cutter from now on, which switches off truncation and padding.
        tokens_max: tokens that the model reads at once, with special tokens.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prefix, self._suffix = _special_tokens(tokenizer)
        self._limit = tokens_max - len(self._prefix) - len(self._suffix)
        self._overlap = min(OVERLAP_TOKENS, self._limit // 2)

    def cut(self, text: str) -> list[TextWindow]:
        """Cut a text into windows that together hold every character; a text that fits is one window.

        Raises:
            InvalidInput: the text has a lone surrogate, which is not a character.
        """
        _require_characters(text)
        # A batch of one, because the library lets other threads run only while it encodes batches.
        encoding = self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
        ids = encoding.ids
        if len(ids) <= self._limit:
            return [self._window(text, ids)]
        starts = [begin for begin, _ in encoding.offsets]
        # Characters between two tokens (white space) belong to the window of the first one.
        edges = [0, *starts[1:], len(text)]
        ranges = window_ranges(_word_starts(text, starts, encoding), self._limit, self._overlap)
        return [self._window(text[edges[begin] : edges[end]], ids[begin:end]) for begin, end in ranges]

    def _window(self, text: str, ids: Sequence[int]) -> TextWindow:
        return TextWindow(text, (*self._prefix, *ids, *self._suffix))


def window_ranges(word_starts: Sequence[bool], limit: int, overlap: int) -> list[tuple[int, int]]:
    """Cut tokens into overlapping ranges of whole words.

    Ranges begin and end at word starts. A word longer than `limit` is cut between its tokens as if each were a word.
    Neighbours share at least `overlap` tokens, and fewer only if the next word would not fit otherwise.

    Args:
        word_starts: for every token, whether it begins a word.
        limit: most tokens of a range, at least 1.
        overlap: tokens that neighbours share, less than `limit`.

    Returns:
        (begin, end) pairs, both rising from range to range, from 0 to the number of tokens without a gap.
    """
    cuts = _allowed_cuts(word_starts, limit)
    # Neighbouring cuts are at most `limit` apart, so every range ends behind its beginning.
    begin, ranges = 0, []
    while True:
        last = bisect_right(cuts, begin + limit) - 1
        end = cuts[last]
        ranges.append((begin, end))
        if end == len(word_starts):
            return ranges
        # The next range begins at a cut that leaves `overlap` tokens before the end of this one.
        shared = cuts[max(0, bisect_right(cuts, end - overlap) - 1)]
        # The next range must reach further than this one, so it cannot begin before this.
        earliest = cuts[bisect_left(cuts, cuts[last + 1] - limit)]
        begin = max(shared, earliest)


def _allowed_cuts(word_starts: Sequence[bool], limit: int) -> list[int]:
    """Positions where a range may begin or end, ascending: word starts, and all positions in overlong words."""
    words = [0, *(i for i, start in enumerate(word_starts) if start and i), len(word_starts)]
    cuts = [0]
    for begin, end in pairwise(words):
        cuts.extend(range(begin + 1, end + 1) if end - begin > limit else [end])
    return cuts


def pad_windows(windows: Sequence[TextWindow], pad_id: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the windows' ids, with each row filled up on the right to the length of the longest.

    Returns:
        (ids, mask), each (windows, tokens) int32; the mask is 1 for ids and 0 for padding.
    """
    shape = len(windows), max((len(window.ids) for window in windows), default=0)
    ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
    return ids, mask


def _word_starts(text: str, starts: Sequence[int], encoding: "Encoding") -> list[bool]:
    """Return which tokens begin a word, as the tokenizer says; otherwise by the white space before them."""
    words = encoding.word_ids
    if len(set(words)) > 1:
        return [words[i] != words[i - 1] for i in range(len(words))]
    # Some tokenizers do not split a text into words first, and report all of it as one word.
    around = (text[max(0, start - 1) : start + 1] for start in starts)
    return [pair != pair.strip() for pair in around]


def _special_tokens(tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after every text, such as those of [CLS] and [SEP]."""
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
