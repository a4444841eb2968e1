"""Real bodies in, expected counts out. The bodies lie beside the project and are not part of it."""

import pytest
from metering.given import RECORDINGS, last_finish_reason, read, read_however_cut, recordings

from proxy.metering.request import api_of
from proxy.usage import Api, Missing, TokenUsage

GROQ = "groq-r1-distill-stream-usage-in-x_groq"
NOT_METERED_YET = {
    "anthropic-ds-nonstream-direct": (Api.ANTHROPIC, Missing.UNSUPPORTED_API),
    "ds-responses-v4flash-nonstream": (Api.RESPONSES, Missing.UNSUPPORTED_API),
    "ds-responses-v4flash-stream": (Api.RESPONSES, Missing.UNSUPPORTED_API),
    "ds-responses-err-400-octetstream": (Api.RESPONSES, Missing.UNSUPPORTED_API),
    "bedrock-r1-converse": (Api.OTHER, Missing.UNSUPPORTED_API),
}
"""Recordings of dialects that have no reader yet: their dialect by the path, and what a meter says of them today."""

ALL = {name: (meta, body) for name, meta, body in recordings()}
CHAT = [name for name, (meta, _) in ALL.items() if meta["endpoint"].endswith("/chat/completions")]
ANSWERED = [name for name in CHAT if ALL[name][0]["status"] == 200]
ERRORS = [name for name in CHAT if ALL[name][0]["status"] != 200]


def test_there_are_recordings():
    """Says so where the folder with the recorded bodies is missing, because then the tests below are empty."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"{RECORDINGS} is missing: the recorded bodies are kept outside the project")

    assert len(ALL) == len(CHAT) + len(NOT_METERED_YET)
    assert ANSWERED
    assert ERRORS


@pytest.mark.parametrize("name", [name for name in ANSWERED if name != GROQ])
def test_a_recorded_answer_is_read_as_it_was_reported(name):
    """Usage by kind, model, fingerprint and finish reason are those of the recording, wherever its bytes are cut."""
    meta, body = ALL[name]
    reading = read_however_cut(body)

    assert disjoint(meta["usage"]) == reading["report"].usage
    assert (meta["model"], meta["system_fingerprint"] or "") == (reading["served_model"], reading["fingerprint"])
    assert last_finish_reason(body) == reading["finish_reason"]
    assert (meta["streaming"], meta["streaming"], None) == (reading["streamed"], reading["ended"], reading["fault"])
    assert reading["report"].violations == ()


@pytest.mark.parametrize("name", [GROQ] if GROQ in ALL else [])
def test_a_usage_in_a_place_of_its_own_is_not_read_yet(name):
    """Groq reports in `x_groq.usage`; today such a stream ends well and without a usage."""
    meta, body = ALL[name]
    reading = read_however_cut(body)

    assert (reading["report"], reading["fault"], reading["ended"]) == (None, None, True)
    assert (meta["model"], meta["system_fingerprint"]) == (reading["served_model"], reading["fingerprint"])


@pytest.mark.parametrize("name", [name for name in NOT_METERED_YET if name in ALL])
def test_a_dialect_without_a_reader_says_so(name):
    """What cannot be read yet is labelled, not guessed."""
    meta, body = ALL[name]
    api, missing = NOT_METERED_YET[name]
    reading = read([body], api)

    assert api == api_of("POST", meta["endpoint"])
    assert (None, missing) == (reading["report"], reading["fault"])


@pytest.mark.parametrize("name", ERRORS)
def test_a_recorded_error_holds_no_usage(name):
    """An error's body, JSON or a bare sentence, is looked at without a fault and reports nothing."""
    reading = read_however_cut(ALL[name][1])

    assert tuple(reading[key] for key in ("report", "served_model", "finish_reason", "ended")) == (None, "", "", False)


def disjoint(usage):
    """The four kinds, straight from the provider's numbers."""
    hit = usage.get("prompt_cache_hit_tokens") or (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return TokenUsage(hit, usage["prompt_tokens"] - hit, reasoning, usage["completion_tokens"] - reasoning)
