"""OpenAI's routes on a real port, asked by OpenAI's own client."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.stand_in_llm import (
    Script,
    StandInLLM,
    answering,
    chunk,
    completion,
    hanging,
    in_turn,
    replying,
    stream_of,
    streaming,
)
from vector_memory.memories import NewMemory

BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."
QUESTION = "What is the budget at Brightwater?"
ANSWER = "The first-year budget at Brightwater was raised to 62,000 euros [1]."
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
BOUND_S = 20.0


@dataclass(frozen=True, slots=True)
class Served:
    """A service with one memory in `acme` and one in `default`, its LLM, and OpenAI's client of it."""

    client: openai.AsyncOpenAI
    llm: StandInLLM
    url: str

    async def ask(self, text: str = QUESTION, **fields: Any) -> Any:
        fields = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.chat.completions.create(**fields)

    @property
    def asked(self) -> dict[str, Any]:
        """The body that the LLM got last."""
        return self.llm.requests[-1].body


@asynccontextmanager
async def serving(folder: Path, script: Script, **llm: object) -> AsyncIterator[Served]:
    with StandInLLM(script) as stand_in:
        worker = Worker(
            Settings(
                memory=MemorySettings(data_dir=folder / "memory"),
                gateway=GatewaySettings(),
                llm=LLMSettings.model_validate({"base_url": stand_in.base_url, **llm}),
            )
        )
        await asyncio.to_thread(worker.load)
        worker.memories.store(NewMemory(content=BUDGET, key="deal/budget", namespace="acme"))
        worker.memories.store(NewMemory(content="The spare key of the cabinet is with Jonas.", key="key"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(create_app(worker), log_config=None))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=BOUND_S)
                async with client:
                    yield Served(client, stand_in, url)
            finally:
                server.should_exit = True
                await task


ACME: dict[str, Any] = {"metadata": {"namespace": "acme"}}


# -- what the LLM is asked -----------------------------------------------------------------------------------------


async def test_memories_are_put_before_the_last_user_message_and_all_else_stays_as_it_is(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": QUESTION, "name": "dana"},
    ]
    async with serving(tmp_path, answering(ANSWER)) as served:
        await served.ask(messages=messages, **ACME)
        asked = served.asked

    *before, last = asked["messages"]
    assert before == messages[:-1]
    assert (last["role"], last["name"]) == ("user", "dana")
    assert last["content"].endswith(f"The message:\n{QUESTION}")
    assert f'] "{BUDGET}"' not in last["content"]
    assert f' "{BUDGET}"\n' in last["content"]
    assert "\n[1] " in last["content"]
    assert asked["model"] == MODEL
    assert "metadata" not in asked


async def test_every_other_parameter_goes_on_as_it_came(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    sent: dict[str, Any] = {
        "temperature": 0.2,
        "top_p": 0.9,
        "stop": ["\n\n"],
        "seed": 7,
        "n": 2,
        "max_completion_tokens": 77,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [tool],
        "response_format": {"type": "json_object"},
        "user": "u",
    }
    async with serving(tmp_path, answering("{}")) as served:
        await served.ask(**sent, metadata={"namespace": "acme", "trace": "t"}, extra_body={"min_p": 0.1})
        asked = served.asked

    assert {name: asked[name] for name in sent} == sent
    assert (asked["min_p"], asked["metadata"]) == (0.1, {"trace": "t"})
    assert "memory" not in asked


async def test_images_and_tool_turns_stay_and_the_words_of_the_last_user_message_are_looked_for(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    parts = [image, {"type": "text", "text": QUESTION}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    async with serving(tmp_path, answering(ANSWER)) as served:
        await served.ask(messages=messages, **ACME)
        asked = served.asked["messages"]

    added, *kept = asked[1]["content"]
    assert kept == parts
    assert BUDGET in added["text"]
    assert [asked[0], *asked[2:]] == [messages[0], *messages[2:]]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": QUESTION}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
        [{"role": "user", "content": [3, "x", {"type": "text"}]}],
        [{"role": "user", "content": "How do volcanoes form under the sea?"}],
    ],
)
async def test_where_there_is_nothing_to_look_for_or_to_find_the_chat_goes_on_as_it_is(
    tmp_path: Path, messages: list[Any]
) -> None:
    async with serving(tmp_path, answering("Fine.")) as served:
        reply = await served.ask(messages=messages, **ACME)
        assert served.asked["messages"] == messages
    assert reply.choices[0].message.content == "Fine."
    assert reply.choices[0].message.annotations is None
    assert reply.memory["passages"] == []


async def test_memory_says_how_many_which_and_whether(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("Fine.")) as served:
        for options in ({"enabled": False}, {"filter": {"lead": "bo"}}, {"min_relevance": 0.9999}):
            await served.ask(**ACME, extra_body={"memory": options})
            assert served.asked["messages"][0]["content"] == QUESTION, options
        await served.ask("Tell me a joke.", **ACME, extra_body={"memory": {"min_relevance": 0, "k": 1}})
        assert BUDGET in served.asked["messages"][0]["content"]


async def test_a_conversation_that_fills_the_window_leaves_no_room_for_memories(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("Fine."), context_tokens=2048) as served:
        await served.ask(max_tokens=1900, **ACME)
        assert served.asked["messages"][0]["content"] == QUESTION
        await served.ask(max_tokens=100, **ACME)
        assert BUDGET in served.asked["messages"][0]["content"]


# -- whose memories ------------------------------------------------------------------------------------------------


async def test_a_namespace_is_named_in_one_of_three_ways_and_is_a_wall(tmp_path: Path) -> None:
    header = {"X-Memory-Namespace": "acme"}
    async with serving(tmp_path, answering("Fine.")) as served:
        for named in (ACME, {"extra_headers": header}, {"model": "research:acme"}, {**ACME, "extra_headers": header}):
            reply = await served.ask(**named)
            assert BUDGET in served.asked["messages"][0]["content"], named
            assert served.asked["model"] == MODEL
            assert reply.memory["namespace"] == "acme"
        for named in ({}, {"metadata": {"namespace": "other"}}, {"model": "research:acme2"}):
            await served.ask(**named)
            assert BUDGET not in served.asked["messages"][0]["content"], named


async def test_two_names_that_differ_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("Fine.")) as served:
        with pytest.raises(openai.BadRequestError, match="different namespaces") as refused:
            await served.ask(**ACME, extra_headers={"X-Memory-Namespace": "other"})
        assert served.llm.requests == []
    assert refused.value.param == "metadata.namespace"


# -- what comes back -----------------------------------------------------------------------------------------------


async def test_an_answer_cites_memories_as_annotations(tmp_path: Path) -> None:
    async with serving(tmp_path, answering(ANSWER)) as served:
        reply = await served.ask(**ACME)

    message = reply.choices[0].message
    [annotation] = message.annotations
    citation = annotation.url_citation
    assert message.content == ANSWER
    assert (citation.url, citation.title) == ("memory://acme/deal%2Fbudget", "deal/budget")
    assert ANSWER[citation.start_index : citation.end_index] == ANSWER
    assert annotation.memory["verdict"] == "supported"
    assert annotation.memory["quote"] == BUDGET
    assert [passage["key"] for passage in reply.memory["passages"]] == ["deal/budget"]
    assert reply.usage.total_tokens == 120


async def test_each_of_several_choices_has_its_own_annotations_and_calls_of_tools_pass(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"},
        {
            "index": 1,
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "finish_reason": "tool_calls",
        },
        {"index": 2, "message": {"role": "assistant", "content": "It is 9 euros [1]."}, "finish_reason": "stop"},
    ]
    body = json.dumps(completion("", choices=choices, error=None, kv_transfer_params=None))
    async with serving(tmp_path, replying(body)) as served:
        reply = await served.ask(n=3, **ACME)

    verdicts = [[one.memory["verdict"] for one in choice.message.annotations or ()] for choice in reply.choices]
    assert verdicts == [["supported"], [], ["unsupported"]]
    assert reply.choices[1].message.tool_calls[0].function.name == "look"


async def test_a_stream_passes_events_on_and_annotates_before_the_end(tmp_path: Path) -> None:
    events = stream_of(ANSWER[:20], ANSWER[20:])
    async with serving(tmp_path, streaming(*events)) as served:
        stream = await served.ask(stream=True, stream_options={"include_usage": True}, **ACME)
        chunks = [one async for one in stream]
        asked = served.asked

    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
    assert chunks[0].memory["passages"][0]["key"] == "deal/budget"
    deltas = [choice.delta for one in chunks for choice in one.choices]
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    [(at, annotated)] = [
        (at, one.choices[0].delta)
        for at, one in enumerate(chunks)
        if one.choices and "annotations" in (one.choices[0].delta.model_extra or {})
    ]
    assert annotated.annotations[0]["memory"]["verdict"] == "supported"
    assert chunks[at + 1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 120


async def test_a_stream_of_several_choices_annotates_each(tmp_path: Path) -> None:
    def piece(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, object]:
        return chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish_reason}])

    events = [
        piece(1, {"role": "assistant", "content": "Nobody "}),
        piece(0, {"content": ANSWER}),
        piece(0, {}, "stop"),
        piece(1, {"content": "knows."}, "stop"),
        "[DONE]",
    ]
    async with serving(tmp_path, streaming(*events)) as served:
        chunks = [one async for one in await served.ask(stream=True, n=2, **ACME)]

    annotated = [one.choices[0].index for one in chunks if "annotations" in (one.choices[0].delta.model_extra or {})]
    assert annotated == [0]
    assert len(chunks) == 5


async def test_the_first_event_tells_the_passages_also_when_it_holds_the_whole_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming(chunk(ANSWER, finish_reason="stop"), "[DONE]")) as served:
        chunks = [one async for one in await served.ask(stream=True, **ACME)]

    assert ["memory" in (one.model_extra or {}) for one in chunks] == [True, False]
    assert "annotations" in (chunks[0].choices[0].delta.model_extra or {})


async def test_annotations_of_the_server_that_are_no_list_are_replaced(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": ANSWER, "annotations": 5}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    async with serving(tmp_path, replying(json.dumps(completion("", choices=choices)))) as served:
        reply = await served.ask(**ACME)

    assert len(reply.choices[0].message.annotations) == 1


async def test_a_number_that_json_cannot_hold_is_told_as_null(tmp_path: Path) -> None:
    body = json.dumps(completion(ANSWER, logprob=0.5)).replace("0.5", "-1e999")
    async with serving(tmp_path, replying(body)) as served:
        reply = await served.ask(**ACME)

    assert reply.model_extra["logprob"] is None


async def test_a_crash_has_the_shape_of_openai_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would send the question twice more, and each may be paid."""
    monkeypatch.setattr("gateway.openai.wire.written", lambda _data: 1 / 0)
    async with serving(tmp_path, answering(ANSWER)) as served, httpx.AsyncClient() as http:
        body = {"messages": [{"role": "user", "content": QUESTION}]}
        response = await http.post(f"{served.url}/v1/chat/completions", json=body)

    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == ("server_error", "internal")


async def test_a_server_that_ignores_stream_is_told_as_one_event(tmp_path: Path) -> None:
    async with serving(tmp_path, answering(ANSWER)) as served:
        chunks = [one async for one in await served.ask(stream=True, **ACME)]

    assert "".join(one.choices[0].delta.content or "" for one in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [chunk("The first-year")],
        [chunk("The first-year"), "[DONE]"],
        [chunk("The first-year"), '{"error": {"message": "EngineCore encountered an issue.", "code": 500}}', "[DONE]"],
        [
            chunk(choices=[{"index": at, "delta": {"content": "x"}, "finish_reason": end}])
            for at, end in ((0, "stop"), (1, None))
        ],
    ],
    ids=["cut", "done too early", "reported", "one of two cut"],
)
async def test_a_stream_that_breaks_off_ends_in_an_error(tmp_path: Path, events: list[Any]) -> None:
    async with serving(tmp_path, streaming(*events, cut=True)) as served:
        stream = await served.ask(stream=True, **ACME)
        said: list[str] = []
        broken = None
        try:
            async for one in stream:
                said += [choice.delta.content or "" for choice in one.choices]
        except openai.APIError as error:
            broken = error
        async with httpx.AsyncClient(timeout=BOUND_S) as http:
            body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, **ACME}
            text = (await http.post(f"{served.url}/v1/chat/completions", json=body)).text

    assert "".join(said) != ""
    error = json.loads(text.strip().rpartition("\n")[2].removeprefix("data: "))["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "upstream", None)
    assert broken is not None
    assert broken.message == error["message"]
    assert "[DONE]" not in text


async def test_a_stream_that_fails_before_the_first_word_is_asked_of_the_next_endpoint(tmp_path: Path) -> None:
    role = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    with StandInLLM(streaming(role, cut=True)) as broken:
        async with serving(tmp_path, streaming(*stream_of("Fine."))) as served:
            (tmp_path / "two").mkdir()
            fallback = json.dumps([{"base_url": served.llm.base_url, "model": "other"}])
            async with serving(
                tmp_path / "two", answering("never"), base_url=broken.base_url, fallback_endpoints=fallback
            ) as second:
                chunks = [one async for one in await second.ask(stream=True)]
                models = [model.id async for model in second.client.models.list()]
                await second.ask(model="other", stream=True)
            assert len(broken.requests) == 1
            assert {request.body["model"] for request in served.llm.requests} == {"other"}

    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "Fine."
    assert models == [MODEL, "other", EMBEDDER]


@pytest.mark.parametrize(
    ("script", "kind", "status", "code"),
    [
        (
            replying('{"error": {"message": "temperature must be in [0, 2]", "code": 400}}', status=400),
            openai.BadRequestError,
            400,
            "upstream",
        ),
        (replying("{}", status=503), openai.InternalServerError, 503, "upstream"),
        (replying("{}", status=401), openai.InternalServerError, 502, "upstream"),
        (replying('{"status": "IN_QUEUE"}'), openai.InternalServerError, 503, "upstream"),
        (replying('{"choices": []}'), openai.InternalServerError, 502, "upstream"),
        (replying('{"choices": [3]}'), openai.InternalServerError, 502, "upstream"),
        (replying("<html>"), openai.InternalServerError, 502, "upstream"),
        (hanging, openai.InternalServerError, 504, "upstream_timeout"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_llm_is_an_error_of_the_clients_own_classes(
    tmp_path: Path, script: Script, kind: type[openai.APIStatusError], status: int, code: str, *, stream: bool
) -> None:
    async with serving(tmp_path, script, timeout_s=1) as served:
        with pytest.raises(kind) as failed:
            await served.ask(stream=stream)

    assert type(failed.value) is kind
    assert (failed.value.status_code, failed.value.code) == (status, code)
    assert failed.value.type == ("invalid_request_error" if status == 400 else "server_error")
    again = failed.value.response.headers
    assert ("retry-after" in again) == (status == 503)
    assert (again.get("x-should-retry") == "false") == (status > 503 or status == 502)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"model": 3}, openai.BadRequestError, "model"),
        ({"messages": "hello"}, openai.BadRequestError, "messages"),
        ({"messages": ["hello"]}, openai.BadRequestError, "messages[0]"),
        ({"metadata": {"namespace": 7}}, openai.BadRequestError, "metadata.namespace"),
        ({"model": "research:"}, openai.BadRequestError, "metadata.namespace"),
        ({"extra_body": {"memory": {"k": 0}}}, openai.BadRequestError, "memory.k"),
        ({"extra_body": {"memory": {"kk": 1}}}, openai.BadRequestError, "memory.kk"),
        ({"extra_body": {"memory": {"filter": {"a": {"$near": 1}}}}}, openai.BadRequestError, "memory.filter.a"),
        ({"extra_body": {"memory": {"min_relevance": 2}}}, openai.BadRequestError, "memory.min_relevance"),
        ({"extra_body": {"memory": []}}, openai.BadRequestError, "memory"),
        ({"extra_body": {"stream": "yes"}}, openai.BadRequestError, "stream"),
    ],
)
async def test_a_wrong_field_is_named(
    tmp_path: Path, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    async with serving(tmp_path, answering("Fine.")) as served:
        with pytest.raises(kind) as refused:
            await served.ask(**fields)
        assert served.llm.requests == []
    assert str(refused.value.param).startswith(param)
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff", b"[" * 20_000, b'{"messages": [NaN]}', b""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_nonsense_is_refused_in_openais_shape(tmp_path: Path, path: str, body: bytes) -> None:
    async with serving(tmp_path, answering("Fine.")) as served, httpx.AsyncClient(timeout=BOUND_S) as http:
        response = await http.post(served.url + path, content=body, headers={"content-type": "application/json"})
        assert served.llm.requests == []

    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_what_cannot_be_sent_on_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("Fine.")) as served, httpx.AsyncClient(timeout=BOUND_S) as http:
        for body in ('{"messages": [], "stop": "\\ud800"}', '{"messages": [], "seed": NaN}'):
            response = await http.post(
                f"{served.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
            )
            assert response.status_code == 400, body
        nul = await served.ask("What is\0 the budget at Brightwater?", **ACME)
        assert BUDGET in served.asked["messages"][0]["content"]
    assert nul.choices[0].message.content == "Fine."


async def test_what_an_llms_server_must_not_send_harms_nobody(tmp_path: Path) -> None:
    body = json.dumps(completion(f"{ANSWER} \ud800", system_fingerprint=float("nan")))
    events = [chunk(f"{ANSWER} \ud800", created=float("inf")), chunk(finish_reason="stop"), "[DONE]"]
    async with serving(tmp_path, in_turn(replying(body), streaming(*events))) as served:
        whole = await served.ask(**ACME)
        chunks = [one async for one in await served.ask(stream=True, **ACME)]

    assert whole.choices[0].message.content == chunks[0].choices[0].delta.content == f"{ANSWER} ?"
    assert len(whole.choices[0].message.annotations) == 1


async def test_without_an_llm_a_chat_is_refused_and_embeddings_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("never"), base_url=None) as served:
        with pytest.raises(openai.InternalServerError, match="LLM_BASE_URL"):
            await served.ask()
        found = await served.client.embeddings.create(model=EMBEDDER, input="x")
        models = [model.id async for model in served.client.models.list()]
    assert (len(found.data), models) == (1, [EMBEDDER])


async def test_a_client_that_goes_away_before_the_first_word_ends_the_llms_work_too(tmp_path: Path) -> None:
    async with serving(tmp_path, hanging) as served:
        asking = asyncio.create_task(served.ask(stream=True, **ACME))
        await served.llm.arrived()
        asking.cancel()
        assert await asyncio.to_thread(served.llm.left.wait, BOUND_S)


async def test_a_client_that_goes_away_ends_the_llms_work(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming(chunk("The first"), hang=True)) as served:
        stream = await served.ask(stream=True, **ACME)
        await anext(aiter(stream))
        await stream.close()
        assert await asyncio.to_thread(served.llm.left.wait, BOUND_S)


# -- embeddings and models -----------------------------------------------------------------------------------------


async def test_embeddings_are_the_models_own_as_numbers_and_as_base64(tmp_path: Path, minilm: Any) -> None:
    texts = [BUDGET, "Oat flat white."]
    expected = np.stack([minilm.embed(minilm.windows(text))[0] for text in texts])
    async with serving(tmp_path, answering("never")) as served:
        as_asked = await served.client.embeddings.create(model=EMBEDDER, input=texts)
        numbers = await served.client.embeddings.create(
            model="all-MiniLM-L6-v2", input=texts[0], encoding_format="float", dimensions=384
        )
        raw = await served.client.embeddings.create(model=EMBEDDER, input=texts[0], encoding_format="base64")

    np.testing.assert_allclose([one.embedding for one in as_asked.data], expected, atol=1e-5)
    np.testing.assert_allclose(numbers.data[0].embedding, expected[0], atol=1e-5)
    packed: Any = raw.data[0].embedding
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed), "<f4"), expected[0], atol=1e-5)
    assert [one.index for one in as_asked.data] == [0, 1]
    assert as_asked.usage.prompt_tokens == sum(len(minilm.windows(text)[0].ids) for text in texts)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"input": []}, openai.BadRequestError, "input"),
        ({"input": ""}, openai.BadRequestError, "input"),
        ({"input": ["x", ""]}, openai.BadRequestError, "input[1]"),
        ({"input": [1, 2, 3]}, openai.BadRequestError, "input[0]"),
        ({"input": [[1, 2, 3]]}, openai.BadRequestError, "input[0]"),
        ({"input": ["x"] * 2_049}, openai.BadRequestError, "input"),
        ({"input": "x" * 100_001}, openai.BadRequestError, "input"),
        ({"input": ["w " * 40_000] * 8}, openai.APIStatusError, "input"),
        ({"dimensions": 256}, openai.BadRequestError, "dimensions"),
        ({"encoding_format": "int8"}, openai.BadRequestError, "encoding_format"),
        ({"model": "text-embedding-3-small"}, openai.NotFoundError, "model"),
    ],
    ids=str,
)
async def test_embeddings_that_cannot_be_made_are_refused(
    tmp_path: Path, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    async with serving(tmp_path, answering("never")) as served:
        with pytest.raises(kind) as refused:
            await served.client.embeddings.create(**{"model": EMBEDDER, "input": "x", **fields})
    assert refused.value.param == param


async def test_models_are_listed_and_got_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path, answering("never")) as served:
        listed = [model async for model in served.client.models.list()]
        for model in listed:
            assert await served.client.models.retrieve(model.id) == model
        with pytest.raises(openai.NotFoundError) as missing:
            await served.client.models.retrieve("gpt-4o")
    assert [model.id for model in listed] == [MODEL, EMBEDDER]
    assert missing.value.code == "model_not_found"
