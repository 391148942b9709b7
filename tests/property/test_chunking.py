"""Chunks of any text: exact spans, within the model's window, nothing left out, no word cut that fits."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.documents.chunking import CHUNK_CHARS_MAX, Chunker
from memory_service.documents.markdown import read_markdown
from memory_service.documents.ordering import number_keys
from memory_service.documents.plain import read_plain, with_plain_lines

WORDS = st.sampled_from(
    ["alpha", "Beta.", "of", "x" * 150, "ünïcode", "日本語。", "```", "# Head", "|a|b|", "- item", "\x00", "🦉", "3.14"]
)
TEXTS = st.one_of(
    st.text(max_size=400),
    st.lists(WORDS, max_size=900).map(lambda words: " ".join(words).replace("of ", "\n\n").replace("alpha ", "\n")),
    st.lists(st.text(alphabet="日本語文章。、", min_size=1, max_size=600), max_size=3).map("\n".join),
    st.text(alphabet="ab/-_.", min_size=1, max_size=40).map(lambda text: text * 300),
)


@pytest.fixture(scope="module")
def chunker(minilm):
    return Chunker(minilm)


@pytest.mark.parametrize("reader", [read_plain, read_markdown])
@settings(max_examples=settings().max_examples // 2)
@given(text=TEXTS)
def test_chunks_hold_every_word_within_the_bound(chunker, minilm, reader, text):
    document = reader(with_plain_lines(text))
    chunks = chunker.chunks(document)
    covered = bytearray(len(document.text))
    for chunk in chunks:
        content = document.text[chunk.start : chunk.end]
        assert content.strip()
        assert len(minilm.windows(content)) == 1
        assert chunker.tokens(content) <= chunker.tokens_max
        assert len(content) <= CHUNK_CHARS_MAX
        covered[chunk.start : chunk.end] = b"\1" * len(content)
    assert all(held or char.isspace() for held, char in zip(covered, document.text, strict=True))
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end


@settings(max_examples=settings().max_examples // 3)
@given(text=TEXTS)
def test_no_word_is_cut_that_fits_into_a_chunk(chunker, text):
    for chunk in chunker.chunks(read_plain(text)):
        for at in (chunk.start, chunk.end):
            if 0 < at < len(text) and not text[at - 1].isspace() and not text[at].isspace():
                begin = re.search(r"\S*$", text[:at]).start()
                word = re.match(r"\S+", text[begin:])[0]
                is_sentence_end = text[at - 1] in "。！？"
                assert is_sentence_end or chunker.tokens(word) > chunker.tokens_max // 2 or len(word) > CHUNK_CHARS_MAX


def test_a_change_at_the_beginning_leaves_the_chunks_behind_it_as_they_were(chunker):
    """Plain text without headings, where filling each chunk up to the brim would move every later boundary."""
    random.seed(7)
    words = [f"{a}{b}" for a in ("lor", "ip", "dol", "sit", "am", "con") for b in ("em", "sum", "or", "et", "us")]
    paragraphs = [" ".join(random.choices(words, k=random.randint(20, 90))) + "." for _ in range(150)]

    def contents(parts):
        text = "\n\n".join(parts)
        return {text[chunk.start : chunk.end] for chunk in chunker.chunks(read_plain(text))}

    before = contents(paragraphs)
    after = contents([paragraphs[0] + " And one more sentence that was not there before.", *paragraphs[1:]])
    assert len(before) > 60
    assert len(after - before) <= 8


def test_a_chunk_stays_within_its_section_and_keeps_code_whole(chunker):
    code = "```py\n" + "\n".join(f"value_{at} = {at}" for at in range(25)) + "\n```"
    prose = "A sentence of some ten words that says nothing at all. " * 14
    text = f"# Install\n\n## From source\n\n{prose}\n\n{code}\n\n## By pip\n\nOne line.\n"
    chunks = chunker.chunks(read_markdown(text))
    assert {chunk.headings for chunk in chunks} == {("Install", "From source"), ("Install", "By pip")}
    assert any(code in text[chunk.start : chunk.end] for chunk in chunks)
    [last] = [chunk for chunk in chunks if chunk.headings[-1] == "By pip"]
    assert text[last.start : last.end] == "## By pip\n\nOne line."


@given(
    held=st.lists(st.integers(0, 30), unique=True, max_size=30),
    keys=st.lists(st.integers(0, 40), unique=True, max_size=40),
    gap=st.integers(1, 50),
)
def test_numbers_rise_and_those_of_an_unchanged_order_stay(held, keys, gap):
    numbers = {str(key): gap * (at + 1) for at, key in enumerate(held)}
    found = number_keys([str(key) for key in keys], numbers)
    assert all(0 < a < b for a, b in pairwise(found))
    assert number_keys([str(key) for key in held], numbers) == [gap * (at + 1) for at in range(len(held))]
