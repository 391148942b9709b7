"""One contract for every embedder, and the two embedders of the same model against each other.

The second embedder takes part where sentence-transformers is installed: `pip install '.[sentence-transformers]'`.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from memory_service.embedding.embedder import Embedder, Vectors
from memory_service.embedding.minilm import MiniLM, packaged_folder
from memory_service.embedding.sentence_transformer import SentenceTransformerEmbedder
from vector_memory.errors import InvalidInput

SHORT = """
A man is eating food.
The stock market fell by three percent on Tuesday.
what does Dana drink in the morning?
I'd rather not; it's 7 o'clock already!
Meet me at 52.5200 N, 13.4050 E.
ERROR 503: upstream connect error or disconnect/reset before headers
def add(a: int, b: int) -> int: return a + b
SELECT name FROM people WHERE age >= 30 ORDER BY name;
https://example.org/a/very/long/path?with=query&and=fragment#here
{"key": "value", "list": [1, 2, 3], "nested": {"a": null}}
The mitochondrion is the powerhouse of the cell.
Photosynthesis converts light energy into chemical energy.
She said "yes" -- and then, after a while, "no".
Pneumonoultramicroscopicsilicovolcanoconiosis
e=mc2
Ångström, naïve, façade, Größe, cœur, İstanbul
Ο γρήγορος σκύλος πηδάει
Быстрая коричневая лиса
敏捷的棕色狐狸跳过懒狗
素早い茶色の狐がのろまな犬を飛び越える
빠른 갈색 여우
الثعلب البني السريع
השועל החום המהיר
तेज भूरी लोमड़ी
🙂 🎉 👩‍👩‍👧
x
?
...
1234567890
-0.000001e-7
Shall I compare thee to a summer's day? Thou art more lovely and more temperate.
To bake bread, mix flour, water, salt and yeast, and wait.
Our flight to Lisbon leaves on 3 March at 06:40 from gate B12.
My sister-in-law's dog is called Biscuit and hates thunder.
The password policy requires twelve characters and one digit.
He plays the cello; she plays chess; they play tennis.
Turn left at the church, then right at the second traffic light.
The patient was given 20 mg of prednisolone daily for five days.
GDP growth slowed from 2.4% to 1.1% year over year.
There is no cat on the mat.
There is a cat on the mat.
ALL CAPITAL LETTERS ARE LOWERED
snake_case and camelCase and kebab-case
<html><body><p>Hello &amp; goodbye</p></body></html>
a [SEP] b [CLS] c [MASK] d [PAD] e
Lorem ipsum dolor sit amet, consectetur adipiscing elit
""".strip().splitlines()
LONG = [" ".join(SHORT[at : at + 12]) for at in range(0, 36, 6)] + [
    "word " * 254,
    "記憶 " * 600,
    "many words here " * 200,
]
ODD = ["", " \n\t ", "\0", "a\0b", "x" * 1000]
TEXTS = [*SHORT, *LONG, *ODD]


@cache
def minilm() -> Embedder:
    return MiniLM.load()


@cache
def sentence_transformer() -> Embedder:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an optional extra)")
    return SentenceTransformerEmbedder.load(str(packaged_folder()), device="cpu")


every_embedder = pytest.mark.parametrize("load", [minilm, sentence_transformer])


@cache
def vectors_of_texts(load: Callable[[], Embedder]) -> Vectors:
    """The vectors of every window of every text, embedded one at a time, which wastes nothing on padding."""
    embedder = load()
    return np.concatenate([embedder.embed([window]) for text in TEXTS for window in embedder.windows(text)])


@every_embedder
def test_a_vector_depends_on_its_own_window_and_not_on_the_batch(load: Callable[[], Embedder]) -> None:
    together = load().embed([load().windows(text)[0] for text in SHORT])
    np.testing.assert_allclose(together, vectors_of_texts(load)[: len(SHORT)], atol=1e-5)


@every_embedder
def test_vectors_are_float32_rows_of_length_one_and_of_the_stated_dimension(load: Callable[[], Embedder]) -> None:
    vectors = vectors_of_texts(load)
    assert vectors.dtype == np.float32
    assert vectors.shape[1] == load().fingerprint.dim
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@every_embedder
def test_no_windows_give_an_empty_array_of_the_stated_dimension(load: Callable[[], Embedder]) -> None:
    vectors = load().embed([])
    assert vectors.shape == (0, load().fingerprint.dim)
    assert vectors.dtype == np.float32


@every_embedder
@pytest.mark.parametrize("text", [*SHORT[:3], *ODD])
def test_a_short_text_is_one_window_of_itself(load: Callable[[], Embedder], text: str) -> None:
    assert [window.text for window in load().windows(text)] == [text]


@every_embedder
def test_a_long_text_is_cut_into_overlapping_windows(load: Callable[[], Embedder]) -> None:
    text = "".join(f"Sentence {number} of many. " for number in range(500))
    windows = load().windows(text)
    begins = [text.index(window.text) for window in windows]
    ends = [begin + len(window.text) for begin, window in zip(begins, windows, strict=True)]
    assert (begins[0], ends[-1]) == (0, len(text))
    assert all(later < end for later, end in zip(begins[1:], ends[:-1], strict=True))


@every_embedder
def test_half_a_surrogate_pair_is_refused(load: Callable[[], Embedder]) -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        load().windows("\udfff")


def test_both_embedders_have_one_fingerprint_so_a_data_folder_serves_either() -> None:
    assert sentence_transformer().fingerprint == minilm().fingerprint


def test_both_embedders_cut_every_text_alike() -> None:
    for text in TEXTS:
        assert sentence_transformer().windows(text) == minilm().windows(text)


def test_both_embedders_give_60_varied_texts_the_same_vectors() -> None:
    assert len(set(TEXTS)) == 60
    cosines = (vectors_of_texts(sentence_transformer) * vectors_of_texts(minilm)).sum(axis=1)
    assert cosines.min() >= 0.9999
