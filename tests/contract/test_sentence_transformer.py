"""Other models of the sentence-transformers library: here a tiny one with random weights, made on the spot.

Its tokenizer is of the SentencePiece family, its padding is not id 0, and its vectors pass through a further layer.
What it has in common with MiniLM is in `test_embedders_agree.py`.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from gateway.serving.worker import Worker
from gateway.settings import load as load_settings
from memory_service.embedding.minilm import packaged_folder
from memory_service.embedding.sentence_transformer import SentenceTransformerEmbedder
from vector_memory.errors import StartupError
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Retrieval

PIECES_MAX = 48
SENTENCES = [f"Sentence {number} is about 日本語 and Größe." for number in range(60)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token=SPECIAL[-1], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Save a model of two transformer layers, CLS pooling and a dense layer down to 16 dimensions."""
    return saved_model(folder, "tiny", seed=seed, width=32, pieces_max=PIECES_MAX, pooling="cls", dense=16)


def multilingual_model(folder: Path) -> Path:
    """Save a model shaped like paraphrase-multilingual-MiniLM-L12-v2 (128 pieces, mean pooling, 384 dimensions)."""
    name = "paraphrase-multilingual-MiniLM-L12-v2"
    return saved_model(folder, name, seed=0, width=384, pieces_max=128, pooling="mean", dense=None)


def saved_model(
    folder: Path, name: str, *, seed: int, width: int, pieces_max: int, pooling: str, dense: int | None
) -> Path:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an extra)")
    import torch
    import transformers
    from sentence_transformers import models as layers

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=pieces_max + 2,
        pad_token_id=1,
    )
    transformers.XLMRobertaModel(config).save_pretrained(folder / "transformer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "transformer")
    transformer = layers.Transformer(str(folder / "transformer"), max_seq_length=pieces_max)
    modules = [transformer, layers.Pooling(width, pooling_mode=pooling)]
    modules += [layers.Dense(width, dense)] if dense else []
    library.SentenceTransformer(modules=modules, device="cpu").save(str(folder / name))
    return folder / name


def load(folder: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder.load(str(folder), device="cpu")


def test_the_fingerprint_follows_the_weights_and_not_the_place_of_the_folder(tmp_path: Path) -> None:
    one, other = tiny_model(tmp_path / "one"), tiny_model(tmp_path / "other", seed=1)
    moved = shutil.copytree(one, tmp_path / "elsewhere" / "tiny")
    fingerprint = load(one).fingerprint
    assert (fingerprint.model, fingerprint.dim, fingerprint.pooling) == ("tiny", 16, "cls")
    assert load(moved).fingerprint == fingerprint
    assert load(other).fingerprint.revision != fingerprint.revision


def test_weights_of_every_layer_count(tmp_path: Path) -> None:
    one, other = tiny_model(tmp_path / "one"), tiny_model(tmp_path / "other", seed=1)
    before = load(one).fingerprint
    shutil.copy(other / "2_Dense" / "model.safetensors", one / "2_Dense" / "model.safetensors")
    assert load(one).fingerprint.revision != before.revision


def test_long_text_is_cut_at_words_into_windows_of_the_models_own_limit(tmp_path: Path) -> None:
    embedder = load(tiny_model(tmp_path))
    text = " ".join(SENTENCES)
    windows = embedder.windows(text)
    assert max(len(window.ids) for window in windows) <= PIECES_MAX
    assert all(window.text.startswith(" ") for window in windows[1:])
    ends = [text.index(window.text) + len(window.text) for window in windows]
    assert ends[-1] == len(text)
    assert all(text.index(later.text) < end for later, end in zip(windows[1:], ends, strict=False))


def test_the_library_gives_the_same_vectors_and_padding_changes_none(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    texts = ["Größe", "Sentence 3 is about 日本語 and Größe.", "about"]
    embedder = load(folder)
    vectors = embedder.embed([embedder.windows(text)[0] for text in texts])
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=1, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_multilingual_siblings_shape_gives_its_fingerprint_and_windows_of_128_pieces(tmp_path: Path) -> None:
    """MiniLM's 256 pieces would lose the second half of each window: the model reads 128."""
    embedder = load(multilingual_model(tmp_path))
    fingerprint = embedder.fingerprint
    assert (fingerprint.model, fingerprint.dim, fingerprint.pooling) == (
        "paraphrase-multilingual-MiniLM-L12-v2",
        384,
        "mean",
    )
    text = " ".join(SENTENCES)
    windows = embedder.windows(text)
    assert 64 < max(len(window.ids) for window in windows) <= 128
    assert text.endswith(windows[-1].text)
    assert embedder.embed(windows[:2]).shape == (2, 384)


@pytest.mark.parametrize("make", [tiny_model, multilingual_model])
def test_a_data_folder_is_served_by_the_model_that_the_settings_name_and_by_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = make(tmp_path / "models")
    flags = {"MEMORY_DATA_DIR": tmp_path / "memory", "MEMORY_EMBEDDER": f"sentence-transformers:{model}"}
    for _ in range(2):  # made by the first, opened again by the second
        worker = Worker(load_settings(flags))
        worker.load()
        assert worker.failure is None
        worker.memories.store(NewMemory(content="Größe is about 日本語.", key="size"))
        [found] = worker.memories.retrieve(Retrieval(query="Größe is about 日本語.", k=1)).hits
        assert found.memory.key == "size"
        worker.memories.close()
    with pytest.raises(StartupError, match=f"Start with MEMORY_EMBEDDER=sentence-transformers:{model.name}, "):
        Worker(load_settings({"MEMORY_DATA_DIR": tmp_path / "memory"})).check()
    worker = Worker(load_settings(flags | {"MEMORY_EMBEDDER": f"sentence-transformers:{packaged_folder()}"}))
    worker.load()
    assert f"MEMORY_EMBEDDER=sentence-transformers:{model.name}, " in str(worker.failure)


def test_a_model_that_is_nowhere_stops_the_start_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an extra)")
    with pytest.raises(StartupError, match=r"not found\. MEMORY_EMBEDDER takes the folder of a model") as caught:
        load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_a_missing_library_stops_the_start_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # Python's way to say: not importable
    with pytest.raises(StartupError, match=r"pip install '\.\[sentence-transformers\]'"):
        load(packaged_folder())


def test_a_folder_that_holds_no_model_stops_the_start(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an extra)")
    with pytest.raises(StartupError, match="sentence-transformers cannot load"):
        load(tmp_path)
