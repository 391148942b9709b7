"""The LLM client against a real port, with everything that real endpoints and their proxies answer."""

import asyncio
import inspect
import json
import re
import socket

import httpx2
import openai
import pytest

from research.llm.client import LLMClient
from research.llm.completion import Completion
from research.llm.settings import LLMSettings
from tests.stand_in_llm import (
    Script,
    StandInLLM,
    answering,
    completion,
    cutting_off,
    dripping,
    hanging,
    hanging_up,
    replying,
)
from vector_memory.errors import (
    LLMBusy,
    LLMNotConnected,
    LLMRefused,
    LLMReplyInvalid,
    LLMTimeout,
    LLMUnreachable,
    ServiceError,
)
from vector_memory.research import ChatMessage

KEY = "sk-very-secret"
MESSAGES: tuple[ChatMessage, ...] = ({"role": "system", "content": "Rules."}, {"role": "user", "content": "Why?"})

# Long enough for a loaded machine to answer at once, and short enough to wait for on purpose.
SHORT_TIMEOUT_S = 1.0


def client(base_url: str, **settings: object) -> LLMClient:
    made = LLMSettings.model_validate({"base_url": base_url, "api_key": KEY, "model": "m-8b", **settings})
    assert made.endpoint is not None
    return LLMClient(made.endpoint, made)


async def ask(llm: LLMClient) -> Completion:
    try:
        return await llm.complete(MESSAGES, max_tokens=200, temperature=0.5)
    finally:
        await llm.close()


async def failure(script: Script, **settings: object) -> ServiceError:
    """The error that one request ends in; it must have been one POST, and tell neither key nor traceback."""
    with StandInLLM(script) as server:
        with pytest.raises(ServiceError) as caught:
            await ask(client(server.base_url, **settings))
        assert len(server.requests) == 1
    assert KEY not in caught.value.message
    assert "Traceback" not in caught.value.message
    return caught.value


async def test_a_completion_comes_back_and_the_request_carries_everything() -> None:
    with StandInLLM(answering("Grimsby [1].")) as server:
        answer = await ask(client(server.base_url))

    assert answer == Completion("Grimsby [1].", "stand-in", 120, "stop", 100, 20)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": "m-8b", "messages": list(MESSAGES), "max_tokens": 200, "temperature": 0.5}


async def test_settings_for_another_endpoint_are_not_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads OPENAI_* variables of its own accord."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-other")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-other")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    with StandInLLM(answering("Yes.")) as server:
        await ask(client(server.base_url))

    assert "other" not in json.dumps(server.requests[0].headers)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (400, '{"error":{"message":"maximum context length is 4096","code":400}}', LLMRefused, "length is 4096"),
        (400, f'{{"error":{{"message":"bad key {KEY}"}}}}', LLMRefused, r"bad key \*\*\*"),
        (401, '{"error":"Unauthorized"}', LLMReplyInvalid, "LLM_API_KEY"),
        (403, f'{{"error":{{"message":"{KEY} is not allowed"}}}}', LLMReplyInvalid, "RUNPOD_API_KEY"),
        (
            404,
            '{"error":{"message":"The model `m-8b` does not exist.","code":404}}',
            LLMReplyInvalid,
            "'m-8b'.*LLM_MODEL",
        ),
        (404, '{"detail":"Not Found"}', LLMReplyInvalid, "LLM_BASE_URL"),
        (408, "", LLMTimeout, "HTTP 408"),
        (413, "", LLMRefused, "HTTP 413"),
        (418, "[]", LLMReplyInvalid, "HTTP 418"),
        (422, '{"detail":"unknown field"}', LLMRefused, "unknown field"),
        (429, '{"error":{"message":"slow down"}}', LLMBusy, "busy or starting"),
        (500, '{"error":{"message":"EngineCore encountered an issue."}}', LLMReplyInvalid, "EngineCore"),
        (502, "<html>Bad gateway</html>", LLMUnreachable, "busy or starting"),
        (503, '{"error":{"message":"The engine is currently busy"}}', LLMBusy, "busy or starting"),
        (504, "", LLMTimeout, "HTTP 504"),
        (524, "<html>A timeout occurred</html>", LLMTimeout, "HTTP 524"),
    ],
)
async def test_every_refusal_has_its_sentence(status: int, body: str, error: type[ServiceError], says: str) -> None:
    content_type = "text/html" if body.startswith("<") else "application/json"

    caught = await failure(replying(body, status=status, content_type=content_type))

    assert type(caught) is error
    assert re.search(says, caught.message)
    assert isinstance(caught.__cause__, openai.APIStatusError)


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        ('{"id": "j-1", "status": "IN_QUEUE"}', "application/json", LLMUnreachable),
        ('{"id": "j-1", "status": "FAILED"}', "application/json", LLMReplyInvalid),
        ('{"error": {"message": "no"}}', "application/json", LLMReplyInvalid),
        ('{"object": "error", "message": "no"}', "application/json", LLMReplyInvalid),
        ("[]", "application/json", LLMReplyInvalid),
        ("null", "application/json", LLMReplyInvalid),
        ("", "application/json", LLMReplyInvalid),
        ("<html>Loading</html>", "text/html", LLMReplyInvalid),
        (json.dumps(completion("")), "application/json", LLMReplyInvalid),
        ('data: {"choices": []}\n\ndata: [DONE]\n\n', "text/event-stream", LLMReplyInvalid),
    ],
)
async def test_a_200_that_is_no_completion_is_no_answer(
    body: str, content_type: str, error: type[ServiceError]
) -> None:
    assert type(await failure(replying(body, content_type=content_type))) is error


async def test_a_completion_counts_whatever_content_type_it_is_sent_with() -> None:
    with StandInLLM(replying(json.dumps(completion("Yes.")), content_type="text/plain")) as server:
        answer = await ask(client(server.base_url))

    assert answer.text == "Yes."


@pytest.mark.parametrize("charset", ["utf-16", "hex", "undefined"])
async def test_a_completion_is_utf_8_whatever_charset_a_proxy_claims(charset: str) -> None:
    body = json.dumps(completion("Grüße [1]."), ensure_ascii=False)
    with StandInLLM(replying(body, content_type=f"application/json; charset={charset}")) as server:
        assert (await ask(client(server.base_url))).text == "Grüße [1]."


async def test_an_endpoint_that_never_answers_is_left_after_the_timeout() -> None:
    caught = await failure(hanging, timeout_s=SHORT_TIMEOUT_S)

    assert type(caught) is LLMTimeout
    assert "within 1 s" in caught.message
    assert "LLM_TIMEOUT_S" in caught.message


async def test_an_endpoint_that_drips_is_left_after_the_timeout_in_all() -> None:
    """Each read succeeds in a twentieth of the timeout, so only the total can end it."""
    body = json.dumps(completion("x" * 10_000))

    assert type(await failure(dripping(body, pause_s=SHORT_TIMEOUT_S / 20), timeout_s=SHORT_TIMEOUT_S)) is LLMTimeout


@pytest.mark.parametrize("script", [hanging_up, cutting_off(json.dumps(completion("Yes.")))])
async def test_a_connection_that_breaks_off_is_unreachable(script: Script) -> None:
    caught = await failure(script)

    assert type(caught) is LLMUnreachable
    assert "broke the connection off" in caught.message


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(LLMNotConnected, match="LLM_BASE_URL"):
            await ask(client(f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"))


async def test_a_host_that_takes_no_connection_is_unreachable_after_the_connect_timeout() -> None:
    """A listener whose queue is full lets further connections hang."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(LLMUnreachable, match="LLM_BASE_URL"):
            await ask(client(f"http://127.0.0.1:{address[1]}/v1", connect_timeout_s=0.2))
        for one in waiting:
            one.close()


async def test_a_cancelled_request_stays_cancelled() -> None:
    """The timeout inside must not turn the caller's own cancellation into an error of the endpoint."""
    with StandInLLM(hanging) as server:
        llm = client(server.base_url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_TIMEOUT_S):
                await llm.complete(MESSAGES, max_tokens=200, temperature=0.5)
        await llm.close()


async def test_many_requests_at_once_share_one_client() -> None:
    with StandInLLM(answering("Yes.")) as server:
        llm = client(server.base_url)
        answers = await asyncio.gather(*(llm.complete(MESSAGES, max_tokens=200, temperature=0.5) for _ in range(8)))
        await llm.close()

    assert [answer.text for answer in answers] == ["Yes."] * 8
    assert len(server.requests) == 8


def test_a_client_outlives_the_event_loop_of_its_first_request() -> None:
    """A serverless worker checks its health in one loop and works in another."""
    with StandInLLM(answering("Yes.")) as server:
        llm = client(server.base_url)
        first = asyncio.run(llm.complete(MESSAGES, max_tokens=200, temperature=0.5))
        second = asyncio.run(llm.complete(MESSAGES, max_tokens=200, temperature=0.5))
        asyncio.run(llm.close())

    assert (first.text, second.text) == ("Yes.", "Yes.")


async def test_a_closed_client_opens_again_on_use() -> None:
    with StandInLLM(answering("Yes.")) as server:
        llm = client(server.base_url)
        await ask(llm)
        await llm.close()

        assert (await ask(llm)).text == "Yes."


REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def status_error(kind: type[openai.APIStatusError], status: int) -> openai.APIStatusError:
    response = httpx2.Response(status, request=REQUEST, text="{}")
    if kind is openai.OAuthError:
        return openai.OAuthError(response=response, body=None)
    return kind("message", response=response, body=None)


# What each exception of the SDK becomes. One that a new release adds fails the test below until it stands here.
KNOWN: dict[openai.OpenAIError, type[ServiceError]] = {
    openai.APITimeoutError(REQUEST): LLMTimeout,
    openai.APIConnectionError(request=REQUEST): LLMUnreachable,
    openai.APIError("message", REQUEST, body=None): LLMReplyInvalid,
    openai.APIResponseValidationError(httpx2.Response(200, request=REQUEST), None): LLMReplyInvalid,
    status_error(openai.APIStatusError, 418): LLMReplyInvalid,
    status_error(openai.BadRequestError, 400): LLMRefused,
    status_error(openai.AuthenticationError, 401): LLMReplyInvalid,
    status_error(openai.OAuthError, 401): LLMReplyInvalid,
    status_error(openai.PermissionDeniedError, 403): LLMReplyInvalid,
    status_error(openai.NotFoundError, 404): LLMReplyInvalid,
    status_error(openai.ConflictError, 409): LLMReplyInvalid,
    status_error(openai.UnprocessableEntityError, 422): LLMRefused,
    status_error(openai.RateLimitError, 429): LLMBusy,
    status_error(openai.InternalServerError, 500): LLMReplyInvalid,
}

# Raised by parts of the SDK that the client does not use: realtime sockets and structured output.
NOT_MET = {
    "OpenAIError",
    "ContentFilterFinishReasonError",
    "LengthFinishReasonError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
}


@pytest.mark.parametrize("error", KNOWN, ids=lambda error: type(error).__name__)
def test_every_exception_of_the_sdk_is_translated(error: openai.OpenAIError) -> None:
    translated = client("http://127.0.0.1/v1").translated(error)

    assert type(translated) is KNOWN[error]
    assert translated.message


def test_no_exception_of_the_sdk_is_forgotten() -> None:
    public = {name: getattr(openai, name) for name in openai.__all__}
    in_sdk = {name for name, kind in public.items() if inspect.isclass(kind) and issubclass(kind, openai.OpenAIError)}

    assert in_sdk == {type(error).__name__ for error in KNOWN} | NOT_MET
