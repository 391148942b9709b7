"""What must hold of the ranges that a long text is cut into, whatever the text and the model."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from memory_service.embedding.embedder import TextWindow
from memory_service.embedding.windows import Cutter, pad_windows, window_ranges

WORD_STARTS = st.lists(st.booleans(), max_size=400)
LIMITS = st.integers(1, 40).flatmap(lambda limit: st.tuples(st.just(limit), st.integers(0, limit - 1)))


def words(*lengths: int) -> list[bool]:
    """The word starts of a text whose words have so many pieces each."""
    return [piece == 0 for length in lengths for piece in range(length)]


@given(WORD_STARTS, LIMITS)
def test_ranges_cover_every_piece_in_order_and_none_exceeds_the_limit(
    word_starts: list[bool], bounds: tuple[int, int]
) -> None:
    limit, overlap = bounds
    ranges = window_ranges(word_starts, limit, overlap)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(word_starts)
    assert all(end - begin <= limit for begin, end in ranges)
    assert all(later <= end for (_, end), (later, _) in pairwise(ranges))


@given(WORD_STARTS, LIMITS)
def test_no_range_lies_inside_another(word_starts: list[bool], bounds: tuple[int, int]) -> None:
    ranges = window_ranges(word_starts, *bounds)
    assert all(first < later and end < later_end for (first, end), (later, later_end) in pairwise(ranges))


@given(st.lists(st.integers(1, 8), min_size=1, max_size=100), st.integers(8, 40))
def test_words_that_fit_are_never_cut(lengths: list[int], limit: int) -> None:
    starts = words(*lengths)
    edges = {edge for pair in window_ranges(starts, limit, overlap=3) for edge in pair}
    assert all(edge == len(starts) or starts[edge] for edge in edges)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=100), st.integers(0, 10), st.integers(0, 10))
def test_neighbours_share_the_overlap_and_at_most_one_word_more(lengths: list[int], overlap: int, spare: int) -> None:
    limit = overlap + 2 * 8 + spare
    for (_, end), (later, _) in pairwise(window_ranges(words(*lengths), limit, overlap)):
        assert overlap <= end - later < overlap + 8


@given(st.integers(1, 300), LIMITS)
def test_a_word_longer_than_the_limit_is_cut_between_its_pieces(length: int, bounds: tuple[int, int]) -> None:
    limit, overlap = bounds
    ranges = window_ranges(words(length), limit, overlap)
    assert all(end - later == overlap for (_, end), (later, _) in pairwise(ranges))
    assert all(end - begin == limit for begin, end in ranges[:-1])


def test_pieces_that_fit_are_one_range() -> None:
    assert window_ranges(words(3, 2), limit=5, overlap=2) == [(0, 5)]


def test_no_pieces_are_one_empty_range() -> None:
    assert window_ranges([], limit=5, overlap=2) == [(0, 0)]


def test_a_seam_gives_up_overlap_where_the_next_word_needs_the_whole_window() -> None:
    assert window_ranges(words(4, 1, 5), limit=5, overlap=2) == [(0, 5), (5, 10)]


def test_a_tokenizer_without_words_is_cut_at_white_space() -> None:
    """Such a tokenizer takes the whole text for one word; here every character is a piece."""
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate("abc ")}, []))
    cuts = Cutter(tokenizer, tokens_max=8).cut("abc abc abc abc abc")
    assert [window.text for window in cuts] == ["abc abc ", "abc abc ", "abc abc ", "abc abc"]


def test_padding_goes_to_the_right_and_is_masked() -> None:
    ids, mask = pad_windows([TextWindow("a", (5, 6, 7)), TextWindow("b", (8,))], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
