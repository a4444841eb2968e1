"""The bytes that go over the wire, made once: what DeepSeek's API answers (shapes of real recordings, 2026), and
what the official SDK sends. Sizes matter here and meaning does not, except for one field: the content of a streamed
chunk is the instant it was written, so that the client can tell how long it was under way.
"""

from typing import Final

CHUNK_EVERY_S: Final = 0.010
STAMP_MARK: Final = b'"content":"@'
STAMP_DIGITS: Final = 19
END_OF_BODY: Final = b"0\r\n\r\n"

_SHARED_HEAD: Final = (
    b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nDate: Sat, 15 Aug 2026 08:33:21 GMT\r\n"
    b"Vary: origin, access-control-request-method, access-control-request-headers\r\n"
    b"Access-Control-Allow-Credentials: true\r\nX-Ds-Trace-Id: bd06e871264660561d23b63952bcb393\r\n"
    b"Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n"
    b"X-Content-Type-Options: nosniff\r\nCf-Cache-Status: DYNAMIC\r\nServer: cloudflare\r\n\r\n"
)
_JSON_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + _SHARED_HEAD
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n" + _SHARED_HEAD
)
_NAMES: Final = (
    b'"created":1786782801,"model":"deepseek-v4-flash","system_fingerprint":"a26a7955944dc5c60445bff77fac9c8e"'
)
_USAGE: Final = (
    b'{"prompt_tokens":22,"completion_tokens":98,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":0},'
    b'"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":22}'
)
_COMPLETION: Final = (
    b'{"id":"1a22d8f9-feaa-4ffa-83a8-58cff35b43f6","object":"chat.completion",' + _NAMES + b',"choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Ruby was created by Yukihiro Matsumoto, often called Matz. He released '
    b'it in 1995."},"logprobs":null,"finish_reason":"stop"}],"usage":' + _USAGE + b"}"
)
_EVENT_START: Final = (
    b'data: {"id":"0cd1282e-a9cf-4e5f-85a1-069a1669f0ce","object":"chat.completion.chunk",' + _NAMES + b',"choices":'
)


def _framed(body: bytes) -> bytes:
    """A body part as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def _stamped(role: bytes) -> bytes:
    """An event of a stream with a place for its instant."""
    zeros = b"0" * STAMP_DIGITS
    delta = b'[{"index":0,"delta":{' + role + STAMP_MARK + zeros + b'"},"logprobs":null,"finish_reason":null}]'
    return _framed(_EVENT_START + delta + b',"usage":null}\n\n').replace(zeros, b"%019d")


COMPLETION: Final = _JSON_HEAD + _framed(_COMPLETION) + END_OF_BODY
FIRST_EVENT: Final = _STREAM_HEAD + _stamped(b'"role":"assistant",')
NEXT_EVENT: Final = _stamped(b"")
LAST_EVENTS: Final = (
    _framed(
        _EVENT_START
        + b'[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":'
        + _USAGE
        + b"}\n\n"
    )
    + _framed(b"data: [DONE]\n\n")
    + END_OF_BODY
)


def request(host: str, body: bytes) -> bytes:
    """A chat completion as the official Python SDK asks for it."""
    head = (
        f"POST /chat/completions HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 2.6.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.6.0\r\n"
        "X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-not-a-key-but-as-long-as-one-is\r\n"
        f"X-Stainless-Async: async:asyncio\r\nX-Stainless-Retry-Count: 0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def request_body(*, tokens: int) -> bytes:
    """The body of a request: streamed, so many tokens long; or, with 0 tokens, not streamed."""
    stream = b'"stream":true,"stream_options":{"include_usage":true},' if tokens else b""
    question = b"Who created the programming language Ruby, and when? Answer in two sentences."
    return (
        b'{"model":"deepseek-v4-flash","messages":[{"role":"system","content":"You are a helpful assistant."},'
        b'{"role":"user","content":"%b"}],%b"max_tokens":%d}' % (question, stream, tokens or 256)
    )
