"""Other models of the sentence-transformers library: here a tiny one with random weights, made on the spot.

Its tokenizer is of the SentencePiece family, its padding is not id 0, and its vectors pass through a further layer.
What it has in common with MiniLM is in `test_embedders_agree.py`.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from memory_service.errors import StartupError
from memory_service.minilm import packaged_folder
from memory_service.sentence_transformer import SentenceTransformerEmbedder

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
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an extra)")
    import torch
    import transformers
    from sentence_transformers import models as layers

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=PIECES_MAX + 2,
        pad_token_id=1,
    )
    transformers.XLMRobertaModel(config).save_pretrained(folder / "transformer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "transformer")
    transformer = layers.Transformer(str(folder / "transformer"), max_seq_length=PIECES_MAX)
    modules = [transformer, layers.Pooling(32, pooling_mode="cls"), layers.Dense(32, 16)]
    library.SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny"))
    return folder / "tiny"


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


def test_a_missing_library_stops_the_start_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # Python's way to say: not importable
    with pytest.raises(StartupError, match=r"pip install '\.\[sentence-transformers\]'"):
        load(packaged_folder())


def test_a_folder_that_holds_no_model_stops_the_start(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (an extra)")
    with pytest.raises(StartupError, match="sentence-transformers cannot load"):
        load(tmp_path)
