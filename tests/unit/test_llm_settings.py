"""Which endpoint answers, and which settings are refused before anything starts."""

import pytest
from pydantic import SecretStr, ValidationError

from research.llm.cost import Prices
from research.llm.endpoints import connect
from research.llm.settings import LLMSettings


def test_nothing_is_configured_by_default() -> None:
    settings = LLMSettings()

    assert settings.endpoint is None
    assert connect(settings) is None
    assert settings.fallback == "none"
    assert (settings.timeout_s, settings.connect_timeout_s, settings.context_tokens) == (60.0, 10.0, 8_192)


def test_a_base_url_is_the_endpoint_with_its_own_key() -> None:
    endpoint = LLMSettings(base_url=" https://llm.example/v1/ ", api_key=SecretStr("sk-1234")).endpoint

    assert endpoint is not None
    assert endpoint.base_url == "https://llm.example/v1"
    assert endpoint.api_key.get_secret_value() == "sk-1234"


def test_a_local_server_without_key_gets_a_placeholder() -> None:
    endpoint = LLMSettings(base_url="http://localhost:8000/v1").endpoint

    assert endpoint is not None
    assert endpoint.api_key.get_secret_value()


def test_runpod_needs_both_its_key_and_its_endpoint() -> None:
    key, endpoint_id = SecretStr("rpa_1234"), "abc-123_x"

    assert LLMSettings(runpod_api_key=key).endpoint is None
    assert LLMSettings(runpod_vllm_endpoint_id=endpoint_id).endpoint is None
    endpoint = LLMSettings(runpod_api_key=key, runpod_vllm_endpoint_id=endpoint_id).endpoint
    assert endpoint is not None
    assert endpoint.base_url == "https://api.runpod.ai/v2/abc-123_x/openai/v1"
    assert endpoint.api_key == key


def test_a_base_url_wins_over_runpod_and_never_gets_its_key() -> None:
    endpoint = LLMSettings(
        base_url="http://localhost:8000/v1", runpod_api_key=SecretStr("rpa_1234"), runpod_vllm_endpoint_id="abc"
    ).endpoint

    assert endpoint is not None
    assert endpoint.base_url == "http://localhost:8000/v1"
    assert endpoint.api_key.get_secret_value() != "rpa_1234"


def test_an_empty_variable_counts_as_unset_and_a_closing_newline_does_not_count() -> None:
    settings = LLMSettings(
        base_url="", api_key=SecretStr("  "), runpod_api_key=SecretStr("rpa_1234\n"), runpod_vllm_endpoint_id="\n"
    )

    assert (settings.base_url, settings.api_key, settings.runpod_vllm_endpoint_id) == (None, None, None)
    assert settings.runpod_api_key == SecretStr("rpa_1234")


@pytest.mark.parametrize(
    "base_url",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://host/v1?key=1",
        "http://user:pass@host/v1",
        "http://[::1",
    ],
)
def test_a_base_url_that_is_no_plain_http_url_is_refused(base_url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        LLMSettings(base_url=base_url)


@pytest.mark.parametrize("endpoint_id", ["https://api.runpod.ai/v2/abc", "abc/def", "a b", "äbc", "x" * 101])
def test_an_endpoint_id_that_is_no_id_is_refused(endpoint_id: str) -> None:
    with pytest.raises(ValidationError, match="runpod_vllm_endpoint_id"):
        LLMSettings(runpod_vllm_endpoint_id=endpoint_id)


@pytest.mark.parametrize("field", ["api_key", "runpod_api_key"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(field: str) -> None:
    with pytest.raises(ValidationError, match=field) as caught:
        LLMSettings.model_validate({field: "secret\nkey"})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"timeout_s": 0},
        {"timeout_s": 601},
        {"timeout_s": float("nan")},
        {"connect_timeout_s": -1},
        {"context_tokens": 2_047},
        {"model": ""},
        {"fallback": "openai"},
        {"temperatur": 1},
    ],
)
def test_a_value_out_of_bounds_or_an_unknown_name_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LLMSettings.model_validate(values)


FALLBACKS = """[
    {"base_url": "https://two.example/v1/", "api_key": "sk-two-secret", "model": "m-two", "input_price": 0.5},
    {"base_url": "https://api.runpod.ai/v2/abc-123/openai/v1"}
]"""


def test_fallbacks_follow_in_their_order_with_url_key_model_and_prices_of_their_own() -> None:
    settings = LLMSettings.model_validate(
        {"base_url": "http://h/v1", "model": "m-one", "second_price": 0.01, "fallback_endpoints": FALLBACKS}
    )

    one, two, three = settings.endpoints
    assert [e.name for e in settings.endpoints] == ["primary", "fallback 1", "fallback 2"]
    assert [e.model for e in settings.endpoints] == ["m-one", "m-two", "m-one"]
    assert (two.base_url, two.api_key.get_secret_value()) == ("https://two.example/v1", "sk-two-secret")
    assert three.api_key != two.api_key
    assert (one.prices, two.prices, three.prices) == (
        Prices(per_second=0.01),
        Prices(per_million_input=0.5),
        Prices(),
    )


def test_fallbacks_alone_are_endpoints_too() -> None:
    settings = LLMSettings.model_validate({"fallback_endpoints": FALLBACKS})

    assert [e.name for e in settings.endpoints] == ["fallback 1", "fallback 2"]
    assert settings.endpoint is None


@pytest.mark.parametrize("blank", ["", " ", "[]"])
def test_no_fallback_is_said_by_an_empty_variable(blank: str) -> None:
    assert LLMSettings.model_validate({"fallback_endpoints": blank}).fallback_endpoints == ()


@pytest.mark.parametrize(
    "text",
    [
        "sk-two-secret",
        "[",
        '{"base_url": "sk-two-secret"}',
        '["sk-two-secret"]',
        '[{"api_key": "sk-two-secret"}]',
        '[{"base_url": "http://u:sk-two-secret@h/v1"}]',
        '[{"base_url": "http://h/v1", "api_key": "sk-two-secret with a space"}]',
        '[{"base_url": "http://h/v1", "apikey": "sk-two-secret"}]',
        '[{"base_url": "http://h/v1", "input_price": -1}]',
        "[" + ",".join(['{"base_url": "http://h/v1"}'] * 9) + "]",
    ],
)
def test_a_fallback_that_is_none_is_refused_without_showing_a_key(text: str) -> None:
    with pytest.raises(ValidationError, match="fallback_endpoints") as caught:
        LLMSettings.model_validate({"fallback_endpoints": text})

    assert "sk-two" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "runpod_url"),
    [
        ("https://api.runpod.ai/v2/abc-123/openai/v1", "https://api.runpod.ai/v2/abc-123"),
        ("http://127.0.0.1:8000/v2/abc/openai", "http://127.0.0.1:8000/v2/abc"),
        ("https://abc123.api.runpod.ai/v1", None),
        ("http://localhost:8000/v1", None),
    ],
)
def test_a_runpod_queue_is_known_by_its_url(base_url: str, runpod_url: str | None) -> None:
    endpoint = LLMSettings(base_url=base_url).endpoint

    assert endpoint is not None
    assert endpoint.runpod_url == runpod_url


def test_keys_are_not_shown_and_every_field_explains_itself() -> None:
    settings = LLMSettings(base_url="http://h/v1", api_key=SecretStr("sk-1234"), runpod_api_key=SecretStr("rpa_1234"))

    assert "1234" not in repr(settings) + repr(settings.endpoint)
    assert "two-secret" not in repr(LLMSettings.model_validate({"fallback_endpoints": FALLBACKS}))
    assert all(field.description for field in LLMSettings.model_fields.values())
