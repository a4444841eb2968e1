"""Real bodies in, expected counts out. The bodies lie beside the project and are not part of it."""

import json
import re

import pytest
from metering.given import PARTIAL, RECORDINGS, read_however_cut, recordings

from proxy.metering.request import api_of
from proxy.usage import TokenUsage

ALL = {name: (meta, body) for name, meta, body in (*recordings(), *recordings(PARTIAL))}
ANSWERED = [name for name, (meta, _) in ALL.items() if meta["status"] == 200]
ERRORS = [name for name, (meta, _) in ALL.items() if meta["status"] != 200]
CUT_SHORT = {"anthropic-ds-stream-head-real", "fim-ds-v4flash-stream-cut"}
"""Pieces whose usage is in the part that is missing."""


def test_there_are_recordings():
    """Says so where the folder with the recorded bodies is missing, because then the tests below are empty."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"{RECORDINGS} is missing: the recorded bodies are kept outside the project")

    assert len(ALL) == len(list(RECORDINGS.iterdir())) - 1 + len(list(PARTIAL.iterdir()))
    assert ANSWERED
    assert ERRORS


@pytest.mark.parametrize("name", ANSWERED)
def test_a_recorded_answer_is_read_as_it_was_reported(name):
    """Usage by kind, model, fingerprint and finish reason are those of the recording, wherever its bytes are cut."""
    meta, body = ALL[name]
    reading = read_however_cut(body, api_of("POST", meta["endpoint"]))

    assert (reading["report"] and reading["report"].usage) == (None if name in CUT_SHORT else disjoint(meta["usage"]))
    assert (reading["report"].violations if reading["report"] else ()) == ()
    assert (served(meta), meta.get("system_fingerprint") or "") == (reading["served_model"], reading["fingerprint"])
    assert last_finish_reason(body) == reading["finish_reason"]
    assert (meta["streaming"], meta["streaming"], None) == (reading["streamed"], reading["ended"], reading["fault"])


@pytest.mark.parametrize("name", ANSWERED)
def test_a_recorded_answers_text_is_what_an_ordinary_parser_finds(name):
    """What the tokenizer would be given: reasoning, answer and calls, as a plain JSON parser puts them together."""
    meta, body = ALL[name]
    reading = read_however_cut(body, api_of("POST", meta["endpoint"]))

    assert spoken(body) == (reading["reasoning"], reading["answer"], reading["calls"])


@pytest.mark.parametrize("name", ERRORS)
def test_a_recorded_error_holds_no_usage(name):
    """An error's body, JSON or a bare sentence, is looked at without a fault and reports nothing."""
    meta, body = ALL[name]
    reading = read_however_cut(body, api_of("POST", meta["endpoint"]))

    assert tuple(reading[key] for key in ("report", "served_model", "finish_reason", "ended")) == (None, "", "", False)


@pytest.mark.parametrize("name", ["azure-ds-v4pro-stream-usage-in-empty-choices"] if ALL else [])
def test_a_host_that_counts_no_reasoning_is_told_from_one_that_does(name):
    """Azure says 0 although 445 pieces of reasoning went by."""
    reading = read_however_cut(ALL[name][1])

    assert (reading["report"].reasoning_reported, reading["reasoning_deltas"]) == (False, 445)


def served(meta):
    """The model of the body; Bedrock has it nowhere but in the URL."""
    return meta["model"] if isinstance(meta["model"], str) else ""


def disjoint(usage):
    """The four kinds, straight from the provider's numbers, whatever its dialect."""
    usage = usage.get("x_groq.usage", usage)
    if "inputTokens" in usage:
        return TokenUsage(0, usage["inputTokens"], 0, usage["outputTokens"])
    if "cache_read_input_tokens" in usage:
        created = usage["cache_creation_input_tokens"]
        return TokenUsage(usage["cache_read_input_tokens"], usage["input_tokens"] + created, 0, usage["output_tokens"])
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens"))
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    hit = usage.get("prompt_cache_hit_tokens") or details.get("cached_tokens") or 0
    of_completion = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    reasoning = of_completion.get("reasoning_tokens") or 0
    return TokenUsage(hit, prompt - hit, reasoning, completion - reasoning)


def last_finish_reason(body):
    """The last one that stands in a body, found without parsing it."""
    if b'"object":"response"' in body:
        return re.findall(rb'"status":"(\w+)","background"', body)[-1].decode()
    return (re.findall(rb'"(?:finish_reason|stop_reason|stopReason)": ?"(\w+)"', body) or [b""])[-1].decode()


def spoken(body):
    """Reasoning, answer and tool calls of a body, by a plain JSON parser."""
    reasoning, answer, calls = [], [], {}
    for document in documents(body):
        for choice in document.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            reasoning.append(said.get("reasoning_content") or said.get("reasoning") or "")
            answer.append(said.get("content") or "")
            for place, call in enumerate(said.get("tool_calls") or ()):
                name, arguments = calls.setdefault(call.get("index", place), ([], []))
                name.append(call["function"].get("name") or "")
                arguments.append(call["function"].get("arguments") or "")
        for block in blocks(document):
            reasoning.append(block.get("thinking") or "")
            answer.append(block.get("text") or "")
    said = [("".join(name), "".join(arguments)) for _, (name, arguments) in sorted(calls.items())]
    return "".join(reasoning), "".join(answer), said


def blocks(document):
    """The blocks of content in a document of the other dialects, with `thinking` and `text` as Anthropic names them."""
    delta, output = document.get("delta"), document.get("output")
    if isinstance(delta, str):
        return [{"thinking" if "reasoning" in document["type"] else "text": delta}]
    if isinstance(output, dict):
        parts = output["message"]["content"]
        return [
            part | {"thinking": part.get("reasoningContent", {}).get("reasoningText", {}).get("text")} for part in parts
        ]
    if output:
        return [
            {"thinking" if item["type"] == "reasoning" else "text": part["text"]}
            for item in output
            for part in item["content"]
        ]
    return [delta] if delta else document.get("content") or []


def documents(body):
    text = body.decode()
    if text.lstrip().startswith("{"):
        return [json.loads(text)]
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
