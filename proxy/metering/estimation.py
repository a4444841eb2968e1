"""Tokens that no host reported: of exchanges without usage, and the reasoning inside a completion that was not divided.

Always labelled: an estimate never stands where a report does, and a division by our count is marked in the record.
Output: on DeepSeek's own text streams one non-empty delta is one token, and the end of thinking is one more (measured on
169 recorded streams: 153 exact, the rest within -1..+3; 17 of 17 reasoner streams with the one). Elsewhere the tokenizer
counts. Tool calls are counted with the markup that is billed and not sent. Prompt: words, tools and the version's
template; where nothing can be counted, the size of the body at DeepSeek's own rule of thumb.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from proxy.metering.faults import UNREADABLE
from proxy.metering.prompt import Prompt, SaidCall, Turn, read_prompt
from proxy.metering.reading import Reading, Text
from proxy.metering.templates import (
    ASSISTANT_TURN,
    CALL_MARKS,
    DSML_OPENING,
    DSML_PARAMETER,
    IMAGE,
    START,
    TURN,
    CallMarkup,
    Template,
)
from proxy.usage import TokenUsage

TOKENS_PER_THOUSAND_BYTES: Final = 300
"""api-docs.deepseek.com, quick_start/token_usage: one English character is about 0.3 token."""

_OPENING: Final = "<think>"
_CLOSING: Final = "</think>"
_A_NAME: Final = re.compile(r'"\s*:')


class CountsTokens(Protocol):
    """A tokenizer, as far as it is asked."""

    def count(self, text: str) -> int:
        """How many tokens a text is."""


class Said(msgspec.Struct, frozen=True):
    """What a model said, as far as it was kept: `reasoning` also where it stood inside `<think>` of the answer."""

    reasoning: str
    answer: str
    calls: tuple[SaidCall, ...]
    left_out: Mapping[str, float]
    """By how much to multiply the count of a text that was not kept whole."""


class Counted(msgspec.Struct, frozen=True):
    """Tokens by our own count. `tools` has the markup of the calls; `thinking` is whether the prompt was for that.

    `prompt_by_size` is True where the prompt's words could not be counted, `by_tokenizer` False where nothing could.
    """

    prompt: int
    reasoning: int
    answer: int
    tools: int
    thinking: bool
    prompt_by_size: bool = False
    by_tokenizer: bool = True


class Estimate(msgspec.Struct, frozen=True):
    """An estimated usage, and what of it is a count of ours that reports may correct.

    `counted_prompt` is False where the host had reported the prompt, or its size had to do. `counted_text` and
    `counted_tools` are the tokens of the output that the tokenizer counted; the rest are deltas, each of them a token.
    """

    usage: TokenUsage
    thinking: bool
    counted_prompt: bool
    counted_text: int
    counted_tools: int


def said_of(reading: Reading) -> Said:
    """The words of a reading, reasoning and answer apart."""
    reasoning, answer = reading.reasoning.kept, reading.answer.kept
    if not reasoning:
        reasoning, answer = split_thinking(answer, opened=_opens_thinking(reading.served_model))
    calls = tuple(SaidCall(call.name, call.arguments.kept) for call in reading.calls.values())
    left_out = {"reasoning": _left_out(reading.reasoning), "answer": _left_out(reading.answer)}
    return Said(reasoning, answer, calls, left_out)


def split_thinking(answer: str, *, opened: bool = False) -> tuple[str, str]:
    """Reasoning and answer of a text that begins with `<think>` (Together, Hyperbolic, Groq); else no reasoning.

    `opened`: the template may have opened the thinking in the prompt, so that only its end goes by.
    """
    text = answer.lstrip()
    if text.startswith(_OPENING):
        reasoning, _, rest = text.removeprefix(_OPENING).partition(_CLOSING)
        return reasoning, rest
    if opened and _CLOSING in answer:
        reasoning, _, rest = answer.partition(_CLOSING)
        return reasoning, rest
    return "", answer


def _opens_thinking(served_model: str) -> bool:
    """R1's later templates do (its model card of February 2025); a host that serves one names it so."""
    return "r1" in served_model.lower()


def needs_division(reading: Reading) -> bool:
    """True where a completion was reported without its reasoning, although reasoning went by."""
    report = reading.report
    if report is None or report.reasoning_reported or not report.usage.completion:
        return False
    if reading.reasoning.characters or reading.answer.beginning(64).lstrip().startswith(_OPENING):
        return True
    return _opens_thinking(reading.served_model) and _CLOSING in reading.answer.kept


def count(tokenizer: CountsTokens, said: Said, body: bytes, template: Template, *, hidden: bool) -> Counted:
    """Count everything. Takes milliseconds to a second for a long exchange: to be called off the event loop.

    `body` is the request's; `hidden` says whether the host puts its own text before the prompt, as DeepSeek's API does.
    """
    prompt = read_prompt(body)
    thinking = bool(said.reasoning) or _thinks(prompt, template)
    return Counted(
        prompt=_prompt_by_size(len(body))
        if prompt is None
        else _prompt(tokenizer, prompt, template, hidden and thinking),
        reasoning=round(tokenizer.count(said.reasoning) * said.left_out["reasoning"]),
        answer=round(tokenizer.count(said.answer) * said.left_out["answer"]),
        tools=_calls(tokenizer, said.calls, template.markup) - _opened(prompt, said.calls, template),
        thinking=thinking,
        prompt_by_size=prompt is None,
    )


def divided(usage: TokenUsage, counted: Counted) -> TokenUsage:
    """A reported usage with its completion divided by our count of the reasoning.

    All of it is reasoning where nothing else was said. The end of thinking, markup and whatever else is not sent belong
    to the answer, unless both counts together come to more than was reported: then it is divided in their proportion.
    """
    completion, other = usage.completion, counted.answer + counted.tools
    reasoning = counted.reasoning if other else completion
    if reasoning + other > completion:
        reasoning = completion * counted.reasoning // max(counted.reasoning + other, 1)
    reasoning = min(reasoning, completion)
    return TokenUsage(usage.input_cache_hit, usage.input_cache_miss, reasoning, completion - reasoning)


def estimate(reading: Reading, counted: Counted, *, one_token_deltas: bool) -> Estimate:
    """What an exchange has cost so far. `one_token_deltas`: the host streams one token a delta, as DeepSeek does."""
    reasoning, answer = counted.reasoning, counted.answer
    by_deltas = one_token_deltas and reading.streamed
    if by_deltas:
        reasoning, answer = _by_deltas(reading, counted)
    thinking_ended = reasoning > 0 and bool(answer or counted.tools)
    hit, miss = reading.known_prompt or (0, counted.prompt)
    return Estimate(
        usage=TokenUsage(hit, miss, reasoning, answer + counted.tools + thinking_ended),
        thinking=counted.thinking,
        counted_prompt=reading.known_prompt is None and not counted.prompt_by_size,
        counted_text=0 if by_deltas or not counted.by_tokenizer else reasoning + answer,
        counted_tools=counted.tools if counted.by_tokenizer else 0,
    )


def rough(reading: Reading, body_bytes: int) -> Counted:
    """Counts without a tokenizer: the prompt by its size, the output by its deltas."""
    reasoning = reading.reasoning_deltas or _by_size(reading.reasoning)
    answer = reading.answer_deltas or _by_size(reading.answer)
    tools = reading.tool_deltas or sum(_by_size(call.arguments) for call in reading.calls.values())
    prompt = _prompt_by_size(body_bytes)
    return Counted(prompt, reasoning, answer, tools, thinking=reasoning > 0, prompt_by_size=True, by_tokenizer=False)


def _by_deltas(reading: Reading, counted: Counted) -> tuple[int, int]:
    if reading.reasoning_deltas or not counted.reasoning:
        return reading.reasoning_deltas, reading.answer_deltas
    reasoning = min(counted.reasoning, reading.answer_deltas)  # inside `<think>`: the deltas do not tell it apart
    return reasoning, reading.answer_deltas - reasoning


def _by_size(text: Text) -> int:
    return -(-text.characters * TOKENS_PER_THOUSAND_BYTES // 1000)


def _prompt_by_size(body_bytes: int) -> int:
    return -(-body_bytes * TOKENS_PER_THOUSAND_BYTES // 1000)


def _left_out(text: Text) -> float:
    kept = len(text.kept) if text.characters else 0
    return text.characters / kept if kept else 1.0


def _thinks(prompt: Prompt | None, template: Template) -> bool:
    if prompt is None or not prompt.is_chat:
        return False
    return template.thinks if prompt.thinking is None else prompt.thinking


def _prompt(tokenizer: CountsTokens, prompt: Prompt, template: Template, hidden: bool) -> int:
    tokens = START + sum(_turn(tokenizer, turn, template) for turn in prompt.turns)
    if not prompt.is_chat:
        return tokens
    if prompt.tools:
        tokens += template.tools + sum(tokenizer.count(tool) for tool in prompt.tools)
        tokens += DSML_OPENING if prompt.forced_call and template.markup is CallMarkup.DSML else 0
    return tokens + template.generation + hidden * template.hidden + prompt.json_mode * template.json_mode


def _turn(tokenizer: CountsTokens, turn: Turn, template: Template) -> int:
    role = {"system": 0, "developer": 0, "assistant": ASSISTANT_TURN}.get(turn.role, TURN)
    tokens = role + tokenizer.count(turn.text) + turn.images * IMAGE
    if template.markup is CallMarkup.DSML:  # since V3.2 reasoning stays in the prompt while tools are called
        return tokens + tokenizer.count(turn.reasoning) + _calls(tokenizer, turn.calls, template.markup)
    return tokens + sum(tokenizer.count(call.name) + tokenizer.count(call.arguments) for call in turn.calls)


def _calls(tokenizer: CountsTokens, calls: tuple[SaidCall, ...], markup: CallMarkup) -> int:
    if not calls:
        return 0
    marks = CALL_MARKS[markup]
    arguments = _dsml_arguments if markup is CallMarkup.DSML else _plain_arguments
    return marks.all + sum(
        marks.each + tokenizer.count(call.name) + arguments(tokenizer, call.arguments) for call in calls
    )


def _plain_arguments(tokenizer: CountsTokens, arguments: str) -> int:
    return tokenizer.count(arguments)


def _dsml_arguments(tokenizer: CountsTokens, arguments: str) -> int:
    """Tags around each parameter instead of JSON; of arguments that were cut off, the JSON and as many tags as names."""
    try:
        values = msgspec.json.decode(arguments or "{}", type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return tokenizer.count(arguments) + DSML_PARAMETER * len(_A_NAME.findall(arguments))
    said = ((name, _plain_value(bytes(value))) for name, value in values.items())
    return sum(DSML_PARAMETER + tokenizer.count(name) + tokenizer.count(value) for name, value in said)


def _plain_value(raw: bytes) -> str:
    """A string without its quotes, anything else as JSON."""
    try:
        return msgspec.json.decode(raw, type=str)
    except UNREADABLE:  # no string, or one with half a character in it
        return raw.decode("utf-8", "replace")


def _opened(prompt: Prompt | None, calls: tuple[SaidCall, ...], template: Template) -> int:
    """Where a call was demanded, its opening stands in the prompt already."""
    forced = prompt is not None and prompt.forced_call and template.markup is CallMarkup.DSML
    return DSML_OPENING if forced and calls else 0
