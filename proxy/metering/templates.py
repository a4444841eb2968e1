"""What a model's chat template adds to the words of a request and takes from those of an answer, in tokens, by family.

Hosts do not publish all of it; these are the numbers under which our count of recorded exchanges came closest to the
reported one (`make accuracy` shows how close; `tests/metering/test_accuracy.py` holds it). They only ever make estimates.
A version belongs to the family with the longest name its own begins with; an unknown one is taken for the newest.
"""

from enum import StrEnum
from typing import Final

import msgspec


class CallMarkup(StrEnum):
    """How a model writes a tool call, which is billed and not sent."""

    FENCED = "fenced"  # V3: `function<sep>NAME`, then the arguments as a fenced block of JSON
    PLAIN = "plain"  # V3.1: `NAME<sep>ARGUMENTS`
    DSML = "dsml"  # since V3.2: tags, one per parameter


class Template(msgspec.Struct, frozen=True):
    """Tokens of one family's template. Every prompt begins with one token, every turn with its role's."""

    family: str
    markup: CallMarkup
    generation: int
    """Behind the last turn: the assistant's role, and since V3.1 the opening or closing of thinking."""
    tools: int
    """The instructions that come with any tools at all."""
    thinks: bool
    """Thinks unless it is told not to."""
    hidden: int = 0
    """What DeepSeek's own API puts before the prompt of a thinking exchange."""
    json_mode: int = 0
    """What `response_format: json_object` adds."""


START: Final = 1
TURN: Final = 1
ASSISTANT_TURN: Final = 2
"""Its role, and the end of its sentence."""

IMAGE: Final = 384
"""Most tokens of an image (api-docs.deepseek.com, guides/vision: Vision-Exp; other versions and hosts do not say)."""

_TABLE: Final = (
    Template("deepseek-v2", CallMarkup.FENCED, generation=1, tools=56, thinks=False),
    Template("deepseek-v3", CallMarkup.FENCED, generation=1, tools=56, thinks=False, json_mode=16),
    Template("deepseek-r1", CallMarkup.FENCED, generation=1, tools=56, thinks=True),
    Template("deepseek-v3.1", CallMarkup.PLAIN, generation=2, tools=93, thinks=False),
    Template("deepseek-v3.2", CallMarkup.DSML, generation=2, tools=222, thinks=False),
    Template("deepseek-v4", CallMarkup.DSML, generation=2, tools=222, thinks=True, hidden=79),
    Template("deepseek-v4.1", CallMarkup.DSML, generation=2, tools=222, thinks=True, hidden=26),
)
"""hidden: 97 against 18 prompt tokens for one message with thinking on and off (V4-Flash-0731, August 2026); V4.1 from one
message of which only the length is known (medium). tools, V4: two recordings, 221 and 217; V3.1: 93 and 98; V3: one, 56."""

_BY_LENGTH: Final = sorted(_TABLE, key=lambda template: len(template.family), reverse=True)
NEWEST: Final = _TABLE[-1]


def template_of(version: str) -> Template:
    """The template of a version, e.g. `DeepSeek-V4-Pro-0813`; also of names as hosts write them, in any case."""
    name = version.lower()
    return next((template for template in _BY_LENGTH if name.startswith(template.family)), NEWEST)


class Marks(msgspec.Struct, frozen=True):
    """Tokens of the markup around tool calls: once, and for each call."""

    all: int
    each: int


CALL_MARKS: Final = {CallMarkup.FENCED: Marks(1, 10), CallMarkup.PLAIN: Marks(2, 3), CallMarkup.DSML: Marks(13, 12)}
"""Counted in recorded answers: V3 28 = 1 + 10 + 17 and 39 = 1 + 2*10 + 18; V3.1 66 = 41 + 2 + 3 + 20; V4 70 = 27 + 13 + 2*12 + 6."""

DSML_OPENING: Final = 7
"""Of the 13, what stands before the first call."""

DSML_PARAMETER: Final = 14
"""Tokens of the tags around one parameter of a call."""
