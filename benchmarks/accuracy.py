"""How exact the counts are: `make accuracy`. Every recorded response, cut into chunks in many ways, against its own usage.

Two questions. Reported usage: is every kind counted to the token, wherever the bytes are cut? Usage withheld: how far is the
estimate, when the chunk that reports it is cut out (a JSON body loses its `usage`)? The recordings lie beside the project.
Exit code 0: all exact and every estimate within its bound; 1: not; 2: no recordings.
"""

import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from proxy.metering.estimation import Counted, CountsTokens, count, divided, estimate, needs_division, said_of
from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.metering.request import api_of
from proxy.metering.templates import template_of
from proxy.usage import Api, TokenUsage
from proxy.vocabulary_files import load_tokenizer

SHARED: Final = Path(__file__).parents[2] / "shared"
FOLDERS: Final = (SHARED / "recordings", SHARED / "recordings_partial")
CUT_EVERYWHERE_BYTES: Final = 10_000
RANDOM_CUTS: Final = 200
DEEPSEEK: Final = "api.deepseek.com"

VERSIONS: Final = {
    "fp_1c141eb703": "DeepSeek-V2.5",
    "fp_3a5770e1b4": "DeepSeek-V3",
    "fp_8802369eaa": "DeepSeek-V3-0324",
    "fp_Og1AzCtNZz": "DeepSeek-V3-0324",
    "fp_393bca965e": "DeepSeek-R1-0528",
    "fp_f253fc19d1": "DeepSeek-V3.1-Terminus",
    "fp_eaab8d114b": "DeepSeek-V3.2",
}
"""Versions by fingerprint, told here and not by the catalog, so that a change of it moves no figure."""

NAMES: Final = ("deepseek-v4", "deepseek-v3.1", "deepseek-r1", "deepseek.r1", "deepseek-chat-v3", "deepseek-v3")


class Recording(NamedTuple):
    """A recorded exchange; `request` is empty where it is not known."""

    name: str
    host: str
    api: Api
    streamed: bool
    version: str
    request: bytes
    body: bytes
    whole: bool
    """False for pieces whose middle is missing: their text says nothing of their usage."""


class Result(NamedTuple):
    """What was found of one recording. `reported` is None where the body holds no usage."""

    recording: Recording
    cuts: int
    differing: int
    reported: TokenUsage | None
    given: TokenUsage | None
    thinking: bool
    estimated: TokenUsage | None
    has_calls: bool

    @property
    def completion_off(self) -> int | None:
        """By how many tokens the estimate of the output is too high."""
        if self.reported is None or self.estimated is None:
            return None
        return self.estimated.completion - self.reported.completion

    @property
    def prompt_off(self) -> int | None:
        """The same of the prompt; None where the request is not known."""
        if self.reported is None or self.estimated is None or not self.recording.request:
            return None
        return self.estimated.prompt - self.reported.prompt

    @property
    def bounded(self) -> bool:
        """The bounds hold for streams of DeepSeek's own host."""
        return self.recording.host == DEEPSEEK and self.recording.streamed

    def within(self) -> bool:
        """True if the estimate keeps the bounds: text max(3, 1 %), calls max(25, 15 %), prompts max(12, 10 %)."""
        if self.reported is None:
            return True
        completion, prompt = self.completion_off, self.prompt_off
        share, least = (0.15, 25) if self.has_calls else (0.01, 3)
        output_fine = (
            not self.bounded or completion is None or abs(completion) <= max(least, share * self.reported.completion)
        )
        known = self.recording.host == DEEPSEEK and not self.thinking and prompt is not None
        return output_fine and (not known or abs(prompt or 0) <= max(12, 0.1 * self.reported.prompt))


def recordings() -> Iterator[Recording]:
    """Every recorded answer with status 200."""
    for folder in FOLDERS:
        for meta_file in sorted(folder.glob("*/meta.json")):
            meta = json.loads(meta_file.read_text("utf-8"))
            if meta["status"] != 200:
                continue
            request = (meta_file.parent / "request.json").read_bytes()
            yield Recording(
                name=meta_file.parent.name,
                host=_host(meta["host"], meta["endpoint"]),
                api=api_of("POST", meta["endpoint"]),
                streamed=meta["streaming"],
                version=_version(meta),
                request=b"" if request.strip() in (b"null", b"{}") else request,
                body=(meta_file.parent / "response.body").read_bytes(),
                whole=folder == FOLDERS[0],
            )


def result_of(recording: Recording, tokenizer: CountsTokens) -> Result:
    """Read a recording in every cut, and once more with its usage withheld."""
    whole = _read(recording.api, [recording.body])
    cuts = list(_cuts(recording.body))
    differing = sum(_facts(_read(recording.api, pieces)) != _facts(whole) for pieces in cuts)
    counted = _count(recording, whole, tokenizer)
    reported = whole.report.usage if whole.report else None
    given = divided(reported, counted) if reported and needs_division(whole) else reported
    estimated = None
    if reported is not None and recording.whole:
        withheld = _read(recording.api, [without_usage(recording.body)])
        assert withheld.report is None
        habits = recording.host == DEEPSEEK
        estimated = estimate(withheld, _count(recording, withheld, tokenizer), one_token_deltas=habits).usage
    return Result(recording, len(cuts), differing, reported, given, counted.thinking, estimated, bool(whole.calls))


def without_usage(body: bytes) -> bytes:
    """A stream without the events that report its usage; a JSON body without its `usage`."""
    text = body.decode()
    if text.lstrip().startswith("{"):
        return json.dumps({name: value for name, value in json.loads(text).items() if name != "usage"}).encode()
    events = re.split(r"(?<=\n\n)", text)
    return "".join(event for event in events if not re.search(r'"usage": ?\{', event)).encode()


def table(results: list[Result]) -> list[tuple[str, ...]]:
    """The published rows: by dialect and host."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.recording.api.value, result.recording.host), []).append(result)
    return [_row(place, group) for place, group in sorted(groups.items(), key=_deepseek_first)]


HEADS: Final = (
    *("dialect", "host", "exchanges", "cuts", "cache hit", "cache miss", "reasoning", "answer", "off"),
    *("completion est.", "prompt est."),
)


def _row(place: tuple[str, str], group: list[Result]) -> tuple[str, ...]:
    reported = [result.reported for result in group if result.reported is not None]
    given = [result.given for result in group if result.given is not None]
    kinds = (
        _kind([one.by_kind()[at][1] for one in reported], [one.by_kind()[at][1] for one in given]) for at in range(4)
    )
    off = sum(_off(result) + result.differing for result in group)
    completion = [(result.completion_off, result.reported.completion) for result in group if result.reported]
    prompt = [(result.prompt_off, result.reported.prompt) for result in group if result.reported]
    cuts = sum(result.cuts for result in group)
    return (*place, f"{len(group)}", f"{cuts:,}", *kinds, f"{off}", _error(completion), _error(prompt))


def _kind(reported: list[int], given: list[int]) -> str:
    """Tokens as reported, and as given in the record where a completion was divided by our count."""
    said, divided_so = sum(reported), sum(given)
    return f"{said:,}" if said == divided_so else f"{said:,} → {divided_so:,}"


def _off(result: Result) -> int:
    """Tokens by which a kind differs from the report; a division of ours differs from no report."""
    if result.reported is None or result.given is None:
        return 0
    if result.given.output_reasoning != result.reported.output_reasoning and not result.reported.output_reasoning:
        return abs(result.given.total - result.reported.total)
    pairs = zip(result.given.by_kind(), result.reported.by_kind(), strict=True)
    return sum(abs(mine - theirs) for (_, mine), (_, theirs) in pairs)


def _error(pairs: list[tuple[int | None, int]]) -> str:
    known = [(off, said) for off, said in pairs if off is not None]
    if not known:
        return "-"
    off, said = sum(abs(off) for off, _ in known), sum(said for _, said in known)
    return f"{off} of {said:,} ({off / said:.1%})"


def _deepseek_first(item: tuple[tuple[str, str], list[Result]]) -> tuple[bool, str, str]:
    (dialect, host), _ = item
    return host != DEEPSEEK, dialect, host


def _count(recording: Recording, reading: Reading, tokenizer: CountsTokens) -> Counted:
    template = template_of(recording.version)
    return count(tokenizer, said_of(reading), recording.request, template, hidden=recording.host == DEEPSEEK)


def _read(api: Api, pieces: list[bytes]) -> Reading:
    meter = Meter(api)
    for piece in pieces:
        meter.feed(piece)
    return meter.finish()


def _facts(reading: Reading) -> tuple[object, ...]:
    usage = reading.report.usage if reading.report else None
    names = reading.served_model, reading.fingerprint, reading.finish_reason, reading.streamed, reading.ended
    deltas = reading.reasoning_deltas, reading.answer_deltas, reading.tool_deltas
    calls = [(call.name, call.arguments.kept) for call in reading.calls.values()]
    return usage, names, deltas, reading.reasoning.kept, reading.answer.kept, calls


def _cuts(body: bytes) -> Iterator[list[bytes]]:
    """At every single byte boundary of a small body, and byte by byte; 200 times at random of a large one."""
    if len(body) <= CUT_EVERYWHERE_BYTES:
        yield [body[at : at + 1] for at in range(len(body))]
        for at in range(1, len(body)):
            yield [body[:at], body[at:]]
        return
    places = random.Random(len(body))
    for _ in range(RANDOM_CUTS):
        at = sorted(places.sample(range(1, len(body)), places.randint(1, 50)))
        yield [body[start:end] for start, end in pairwise([0, *at, len(body)])]


def _host(host: str, endpoint: str) -> str:
    if host == "router.huggingface.co":
        return endpoint.split("/")[1]
    return {"azure (services.ai.azure.com)": "Azure"}.get(host, host.removesuffix(".us-east-1.amazonaws.com"))


def _version(meta: dict[str, str]) -> str:
    known = VERSIONS.get(str(meta.get("system_fingerprint") or "")[:13])
    if known is not None:
        return known
    named = f"{meta.get('model')} {meta['endpoint']}".lower().replace("deepseek-flash", "deepseek-v4.1")
    found = next((name for name in NAMES if name in named), "deepseek-v4")
    return "deepseek-v4.1" if "deepseek-v4.1" in named else found.replace(".r1", "-r1").replace("chat-v3", "v3")


def results() -> list[Result]:
    """Of every recording there is."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(Path(folder))
    return [result_of(recording, tokenizer) for recording in recordings()]


def main() -> int:
    """Show the table, and every estimate on its own."""
    found = results()
    if not found:
        print(f"no recordings in {FOLDERS[0]}", file=sys.stderr)
        return 2
    shown = Table(*HEADS)
    for row in table(found):
        shown.add_row(*row)
    each = Table("recording", "prompt", "estimated", "completion", "estimated", "reasoning", "given", "within")
    for result in found:
        each.add_row(*_each(result))
    Console(width=150).print(shown, each)
    return 0 if all(result.within() and not _off(result) and not result.differing for result in found) else 1


def _each(result: Result) -> tuple[str, ...]:
    reported, estimated, given = result.reported, result.estimated, result.given
    if reported is None or given is None:
        return (result.recording.name, *"-" * 6, "no usage in it")
    prompt = str(estimated.prompt) if estimated and result.recording.request else "-"
    completion = str(estimated.completion) if estimated else "-"
    figures = (
        reported.prompt,
        prompt,
        reported.completion,
        completion,
        reported.output_reasoning,
        given.output_reasoning,
    )
    return (result.recording.name, *map(str, figures), "yes" if result.within() else "NO")


if __name__ == "__main__":
    sys.exit(main())
