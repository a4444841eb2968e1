"""Hostile bodies: real and made ones, spoilt at random. Everything comes from one seeded `random.Random`."""

import random
import re
from collections.abc import Callable, Iterator

from metering.given import CASSETTES, PARTIAL, RECORDINGS

TOKENS = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xf0\x9f", b"\xed\xa0\x80", b" "),
    *(
        b"data:",
        b"data: ",
        b"data:  ",
        b"event: message_delta\n",
        b"id: 1\n",
        b"retry: 5\n",
        b": keep-alive\n\n",
        b"x\n",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"null", b"true", b"NaN", b"Infinity", b"{}", b"[]", b"{}{}"),
    *(b"[DONE]", b"data: [DONE]\n\n", b"data: [DONE]", b'{"type":"message_stop"}', b'{"type":"response.completed"}'),
    *(rb"\ud83d", rb"\ude00", rb"\ud83d\ude00", rb"\u0000", rb"\uFFFF", b"<think>", b"</think>"),
    b'"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}',
    b'"usage":{"input_tokens":5,"output_tokens":6}',
    b'"usage":null',
    b'"choices":[]',
    b'"choices":[{"delta":{"content":"a","tool_calls":[{"index":-1,"function":{"name":5,"arguments":[1]}}]}}]',
    b'"x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":1}}',
    b"[" * 2000,
)
"""Pieces that mean something to one of the readers, or to a careless one."""

NUMBERS = (
    b"-1",
    b"0",
    b"1e400",
    b"1.5",
    b'"7"',
    b"null",
    b"1" * 40,
    b"-0",
    b"9223372036854775808",
    b"1e3",
    b"[]",
    b"{}",
)
_NUMBER = re.compile(rb"\d+")

Mutation = Callable[[random.Random, bytes], bytes]


def seeds() -> list[bytes]:
    """Our cassettes, and the recordings where they are."""
    files = [path for path in CASSETTES.iterdir() if not path.name.endswith(".expected.json")]
    files += [folder / "response.body" for root in (RECORDINGS, PARTIAL) for folder in root.glob("*/")]
    return [path.read_bytes()[:60_000] for path in sorted(files)]


def bodies(chance: random.Random) -> Iterator[bytes]:
    """Spoilt bodies without end."""
    known = seeds()
    while True:
        body = chance.choice(known)
        for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
            body = chance.choice(MUTATIONS)(chance, body)
        yield body if chance.random() < 0.8 else body + chance.choice(known)


def pieces(chance: random.Random, body: bytes) -> Iterator[bytes]:
    """A body as the network might deliver it: tiny pieces, pieces of the size of an event, or large ones."""
    size = chance.choice((1, 3, 20, 200, 200, 1000, 20_000))
    at = 0
    while at < len(body):
        end = at + chance.randint(0 if chance.random() < 0.02 else 1, 2 * size)
        yield body[at:end]
        at = end


def _place(chance: random.Random, body: bytes) -> int:
    return chance.randint(0, len(body))


def _insert(chance: random.Random, body: bytes) -> bytes:
    at = _place(chance, body)
    return body[:at] + chance.choice(TOKENS) * chance.choice((1, 1, 1, 2, 50)) + body[at:]


def _delete(chance: random.Random, body: bytes) -> bytes:
    at = _place(chance, body)
    return body[:at] + body[at + chance.choice((1, 2, 7, 40, 400)) :]


def _repeat(chance: random.Random, body: bytes) -> bytes:
    at = _place(chance, body)
    return body[:at] + body[max(at - chance.choice((1, 5, 100, 1000)), 0) :]


def _flip(chance: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.choice((1, 3, 20))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _number(chance: random.Random, body: bytes) -> bytes:
    found = list(_NUMBER.finditer(body))
    if not found:
        return body
    one = chance.choice(found)
    return body[: one.start()] + chance.choice(NUMBERS) + body[one.end() :]


def _line_ends(chance: random.Random, body: bytes) -> bytes:
    return body.replace(b"\n", chance.choice((b"\r", b"\r\n", b"\n\n", b"")), chance.choice((1, 5, -1)))


def _no_space(_chance: random.Random, body: bytes) -> bytes:
    return body.replace(b"data: ", b"data:")


def _in_lines(_chance: random.Random, body: bytes) -> bytes:
    return body.replace(b",", b",\ndata: ", 20)


def _glue(chance: random.Random, body: bytes) -> bytes:
    return body.replace(b"\n\ndata: ", chance.choice((b"", b" ", b"\n")), chance.choice((1, 3)))


def _truncate(chance: random.Random, body: bytes) -> bytes:
    return body[: _place(chance, body)]


MUTATIONS: tuple[Mutation, ...] = (
    _insert, _insert, _insert, _delete, _repeat, _flip, _number, _number, _line_ends, _no_space, _in_lines, _glue, _truncate,
)  # fmt: skip
