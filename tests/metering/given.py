"""Feeding a body in every way it could be cut, and what a reading holds, as plain values."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.usage import Api

CASSETTES = Path(__file__).parents[1] / "cassettes"
RECORDINGS = Path(__file__).parents[3] / "shared/recordings"
PARTIAL = RECORDINGS.with_name("recordings_partial")
CUT_EVERYWHERE_BYTES = 10_000
RANDOM_CUTS = 200


def facts(reading):
    """All a reading holds, comparable: texts as strings, calls as name and arguments."""
    held = {name: getattr(reading, name) for name in Reading.__slots__}
    calls = [(call.name, call.arguments.kept) for _, call in sorted(reading.calls.items())]
    return held | {"reasoning": reading.reasoning.kept, "answer": reading.answer.kept, "calls": calls}


def read(pieces, api=Api.CHAT, content_encoding=""):
    """The facts of a body that comes in these pieces."""
    meter = Meter(api, content_encoding)
    for piece in pieces:
        meter.feed(piece)
    return facts(meter.finish())


def read_however_cut(body, api=Api.CHAT, content_encoding=""):
    """The facts of `body`; fails if they depend on how it is cut.

    Whole, byte by byte, and in two pieces at every position; large bodies at seeded random places instead.
    """
    whole = read([body], api, content_encoding)
    for number, pieces in enumerate((single_bytes(body), *cuts(body))):
        assert whole == read(pieces, api, content_encoding), f"differs in the {number}th way of cutting"
    return whole


def single_bytes(body):
    return [body[at : at + 1] for at in range(len(body))]


def cuts(body):
    """`body` in pieces, in many ways."""
    if len(body) <= CUT_EVERYWHERE_BYTES:
        return [(body[:at], body[at:]) for at in range(1, len(body))]
    places = random.Random(len(body))
    return [in_pieces(body, places.choices(range(len(body)), k=places.randint(1, 8))) for _ in range(RANDOM_CUTS)]


def in_pieces(body, places):
    """`body` cut at these places."""
    return [body[start:end] for start, end in pairwise([0, *sorted(places), len(body)])]


def cassettes():
    """Name, body and expected facts of every cassette of ours."""
    for expected in sorted(CASSETTES.glob("*.expected.json")):
        name = expected.name.removesuffix(".expected.json")
        (body,) = (
            path for path in CASSETTES.glob(f"{name}.*") if path.suffix in {".sse", ".json"} and path != expected
        )
        yield name, body.read_bytes(), json.loads(expected.read_text("utf-8"))


def recordings(folder=RECORDINGS):
    """Name, facts and body of every recorded response; none where the folder is missing."""
    for meta in sorted(folder.glob("*/meta.json")):
        yield meta.parent.name, json.loads(meta.read_text("utf-8")), (meta.parent / "response.body").read_bytes()


def recorded_request(name, folder=RECORDINGS):
    """The body of the request of a recording; empty where it is not known."""
    body = (folder / name / "request.json").read_bytes()
    return b"" if body.strip() in (b"null", b"{}") else body


def last_finish_reason(body):
    """The last one that stands in a body, found without parsing it."""
    return (re.findall(rb'"finish_reason": ?"(\w+)"', body) or [b""])[-1].decode()
