"""The shapes of a trace of research: as it is kept, and as it is shown without any text that is gone since."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from research.trace import Seen, Trace, version
from vector_memory.research import Fate, ResearchRequest, TracedHit, TraceShown
from vector_memory.times import iso_time


def pack_trace(trace: Trace) -> dict[str, Any]:
    """Return a trace as it is kept: all that can be shown, and digests that tell whether its memories have changed."""
    hits = trace.retrieved.hits
    explanation = trace.retrieved.explanation
    return {
        "request": trace.request.model_dump(mode="json"),
        "asked_at_ms": trace.asked_at_ms,
        "mode": trace.retrieved.mode.value,
        "explanation": None if explanation is None else explanation.body(),
        "candidates": [TracedHit.of(hit).body() for hit in hits],
        "seen": [asdict(Seen(hit.memory.key, version(hit.memory))) for hit in hits],
        "prompt": trace.prompt,
        "answer": trace.answer.body(),
        "timings_ms": dict(trace.timings_ms),
    }


def unpack_request(kept: Mapping[str, Any]) -> ResearchRequest:
    """Return the question of a kept trace."""
    return ResearchRequest(**kept["request"])


def unpack_seen(kept: Mapping[str, Any]) -> list[Seen]:
    """Return the memories that a kept trace retrieved, best first."""
    return [Seen(**one) for one in kept["seen"]]


def shown_trace(id: str, kept: Mapping[str, Any], fates: Mapping[str, Fate]) -> TraceShown:
    """Return a trace for a caller, without any text of memories that are gone or have changed since.

    What was made from such a memory is left out too: the prompt, the answer's text and its removed sentences.

    Args:
        id: the trace's.
        kept: what `pack_trace` returned.
        fates: what became of each retrieved memory, by key.
    """
    answer = kept["answer"]
    withheld = [key for key, fate in fates.items() if fate != "unchanged"]
    shown = {
        **answer,
        "trace_id": id,
        "context": [_passage_place(one) if one["key"] in withheld else one for one in answer["context"]],
        "nearest": [_passage_place(one) if one["key"] in withheld else one for one in answer["nearest"]],
        "citations": [_citation_place(one) if one["key"] in withheld else one for one in answer["citations"]],
    }
    is_touched = any(one["key"] in withheld for one in answer["context"])
    if is_touched:
        shown |= {"result": None, "removed": []}
    explanation = kept["explanation"]
    if explanation is not None and withheld:
        explanation = {**explanation, "speakers": []}
    shown_body = {
        "trace_id": id,
        "request": kept["request"],
        "asked_at": iso_time(kept["asked_at_ms"]),
        "mode": kept["mode"],
        "candidates": [{**one, "now": fates[one["key"]]} for one in kept["candidates"]],
        "explanation": explanation,
        "prompt": None if is_touched else kept["prompt"],
        "answer": {name: value for name, value in shown.items() if name != "prompt"},
        "timings_ms": kept["timings_ms"],
        "withheld": withheld,
    }
    return TraceShown.read(shown_body)


def _only(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that keeps these fields of a body alone: a new field is withheld until it is listed here."""
    return lambda body: {name: body[name] for name in names if name in body} | {"withheld": True}


_passage_place = _only("n", "key", "namespace", "score", "relevance", "created_at")
_citation_place = _only("n", "key", "namespace", "score", "created_at", "verdict", "answer_span")
