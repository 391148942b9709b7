"""Settings: where they come from, and that .env.example tells of every one."""

from pathlib import Path

import pytest

from gateway.settings import load, variables
from vector_memory.errors import StartupError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in variables():
        monkeypatch.delenv(name, raising=False)


def test_the_example_file_names_every_variable_and_no_other():
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    named = {line.removeprefix("# ").split("=")[0] for line in lines if "=" in line and not line.startswith("##")}
    assert named == set(variables())


def test_the_example_file_can_be_used_as_it_is(tmp_path):
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"))
    assert load(folder=tmp_path) == load(folder=tmp_path / "nowhere")


def test_flags_win_over_variables_and_these_over_the_env_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("MEMORY_PORT=1\nMEMORY_HOST=file\nLLM_MODEL=file\n")
    monkeypatch.setenv("MEMORY_PORT", "2")
    monkeypatch.setenv("MEMORY_HOST", "variable")
    settings = load({"MEMORY_PORT": 3, "MEMORY_HOST": None}, folder=tmp_path)
    assert (settings.gateway.port, settings.gateway.host, settings.llm.model) == (3, "variable", "file")


def test_an_empty_variable_counts_as_unset(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_PORT", "")
    monkeypatch.setenv("LLM_BASE_URL", " ")
    assert load(folder=tmp_path).gateway.port == 8000


@pytest.mark.parametrize(
    ("name", "hint"), [("MEMORY_PROT", "MEMORY_PORT"), ("LLM_MODLE", "LLM_MODEL"), ("MEMORY_XYZ", ".env.example")]
)
def test_a_misspelt_variable_is_an_error_wherever_it_stands(tmp_path, monkeypatch, name, hint):
    (tmp_path / ".env").write_text(f"{name}=1\n")
    with pytest.raises(StartupError, match=hint.replace(".", r"\.")):
        load(folder=tmp_path)
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartupError, match=name):
        load(folder=tmp_path / "nowhere")


def test_other_programs_variables_with_a_common_prefix_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PROVIDER", "somebody")
    assert load(folder=tmp_path).llm.base_url is None


def test_a_bad_value_is_named_and_a_secret_never_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", "sk-very secret")
    with pytest.raises(StartupError, match="LLM_API_KEY") as caught:
        load(folder=tmp_path)
    assert "very" not in str(caught.value)


def test_a_bad_fallback_is_named_to_its_field_and_its_key_never_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_FALLBACK_ENDPOINTS", '[{"base_url": "http://h/v1", "api_key": "sk-very secret"}]')
    with pytest.raises(StartupError, match=r"LLM_FALLBACK_ENDPOINTS\[0\].api_key: ") as caught:
        load(folder=tmp_path)
    assert "very" not in str(caught.value)


def test_the_runpod_pair_gives_the_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", "rp-key")
    monkeypatch.setenv("RUNPOD_VLLM_ENDPOINT_ID", "abc123")
    endpoint = load(folder=tmp_path).llm.endpoint
    assert endpoint is not None
    assert endpoint.base_url == "https://api.runpod.ai/v2/abc123/openai/v1"


@pytest.mark.parametrize("value", ["int4", "FP32", "8", "int8 "])
def test_a_precision_that_is_not_there_is_refused_and_those_there_are_named(tmp_path, monkeypatch, value):
    monkeypatch.setenv("MEMORY_EMBEDDING_PRECISION", value)
    with pytest.raises(StartupError, match=r"^MEMORY_EMBEDDING_PRECISION: .*'fp32' or 'int8'"):
        load(folder=tmp_path)


def test_int8_is_refused_for_a_model_that_is_not_minilm(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_EMBEDDING_PRECISION", "int8")
    assert load(folder=tmp_path).memory.embedding_precision == "int8"
    monkeypatch.setenv("MEMORY_EMBEDDER", "sentence-transformers:some/model")
    with pytest.raises(StartupError, match=r"^MEMORY_EMBEDDING_PRECISION: int8 is for MEMORY_EMBEDDER=minilm"):
        load(folder=tmp_path)
    monkeypatch.setenv("MEMORY_EMBEDDING_PRECISION", "fp32")
    assert load(folder=tmp_path).memory.embedder == "sentence-transformers:some/model"
