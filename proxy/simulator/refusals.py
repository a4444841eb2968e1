"""DeepSeek's error answers: status, content type and body. Pure.

Recorded: 400 (JSON under application/octet-stream), 401, 402, 422 (a bare sentence as text/plain) and 503; the 404 is
quoted in public issues. The bodies of 429 and 500, and of a request that is no JSON at all, were never seen: they have
the same shape with likely words.
"""

import msgspec

JSON = "application/json"
JSON_AS_BYTES = "application/octet-stream"
PLAIN_TEXT = "text/plain; charset=utf-8"
INVALID = "invalid_request_error"


class Refusal(msgspec.Struct, frozen=True):
    """An error answer."""

    status: int
    content_type: str
    body: bytes


def drawn(status: int) -> Refusal:
    """The refusal a scenario or a header asks for. Raises KeyError for a status that is not in `TABLE`."""
    return TABLE[status]


def bad_request(message: str) -> Refusal:
    """400 as it has come since May 2026: JSON that calls itself bytes."""
    return _error(400, message, INVALID, content_type=JSON_AS_BYTES)


def wrong_model(name: str, listed: tuple[str, ...]) -> Refusal:
    """400 for a model that is retired or never was."""
    return bad_request(f"The supported API model names are {' or '.join(listed)}, but you passed {name}.")


def no_authorization() -> Refusal:
    """401 for a request without a bearer."""
    return _error(401, "Authentication Fails (auth header format should be Bearer sk-...)", "authentication_error")


def not_json(reason: str) -> Refusal:
    """400 for a body that is no JSON."""
    return Refusal(400, PLAIN_TEXT, f"Failed to parse the request body as JSON: {reason}".encode())


def wrong_fields(reason: str, size: int) -> Refusal:
    """422 for JSON with missing or wrong fields, in the words of DeepSeek's JSON library."""
    place = f"at line 1 column {size}"
    sentence = f"Failed to deserialize the JSON body into the target type: {reason} {place}"
    return Refusal(422, PLAIN_TEXT, sentence.encode())


def not_found(trace_id: str) -> Refusal:
    """404, which comes from the gateway before the API and looks like nothing else."""
    event = f"30-inst-128-{trace_id[:8]}"
    text = f'{{\n  "event_id": "{event}",\n  "error_msg": "Not Found. Please check the configuration."\n}}\n\n'
    return Refusal(404, JSON, text.encode())


def _error(status: int, message: str, kind: str, code: str = INVALID, content_type: str = JSON) -> Refusal:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Refusal(status, content_type, msgspec.json.encode({"error": error}))


_TOO_LONG = (
    "This model's maximum context length is 1048576 tokens. However, you requested 1250025 tokens (1250025 in the "
    "messages, 0 in the completion). Please reduce the length of the messages or completion."
)
_TOO_BUSY = "Service is too busy. We advise users to temporarily switch to alternative LLM API service providers."

TABLE = {
    400: bad_request(_TOO_LONG),
    401: _error(401, "Authentication Fails, Your api key: ****0000 is invalid", "authentication_error"),
    402: _error(402, "Insufficient Balance", "unknown_error"),
    422: wrong_fields("messages[0]: data did not match any variant of untagged enum ChatCompletionRequestContent", 96),
    429: _error(429, "Rate limit reached for requests", "rate_limit_reached_error"),
    500: _error(500, "Internal Server Error", "internal_error", "internal_error"),
    503: _error(503, _TOO_BUSY, "service_unavailable_error", "service_unavailable_error"),
}
"""What a scenario's `mishaps.errors` and `X-Simulator-Behaviour: error-NNN` can ask for."""
