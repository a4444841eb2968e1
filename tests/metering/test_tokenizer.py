"""Our one pattern against Hugging Face's three passes: the same ids for the same text."""

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metering.counting import TOKENIZER_JSON, real
from metering.texts import CODE, LANGUAGES
from tokenizers import Tokenizer as HuggingFace

from proxy.metering.tokenizer import PIECE_CHARACTERS, packed, tokens_of, unpacked

STRINGS = 20_000

ALPHABETS = {
    "letters": "abcXYZßøñ",
    "CJK": "一二三中文字龥龦鿿㐀𠀀々〆",
    "kana": "あぁアンヴ゛゜\u3099\u309a・ー〜゠ヿ\u3040\u3097",
    "Hangul and others": "한국ㄱעבریתعربيहिन्दीไทยԱՐბგ",
    "combining": "e\u0301\u0300\u0302\u0345\u0489\u094d\ufe0f\u20e3",
    "control": "\x00\x01\x08\x0b\x1c\x1f\x7f\x85\x9f",
    "format": "\u200b\u200d\u200e\u2060\ufeff\u00ad\U000e0001\u061c",
    "private and unassigned": "\ue000\U0010fffd\u0378\uffff\U000e01f0",
    "emoji": "😀👩🏽🧑❤️🇩🇪👍1️⃣🫠",
    "digits": "0123456789٣٤०१²½Ⅷ①𝟗〇㊿",
    "blanks": " \t\n\r\v\f\u00a0\u2028\u3000\u1680",
    "ASCII marks": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "other marks": "«»—…„“¿€£©™∑≠÷§。，、！？",
}


@functools.cache
def hugging_face():
    return HuggingFace.from_file(str(TOKENIZER_JSON))


def theirs(text):
    return hugging_face().encode(text, add_special_tokens=False).ids


def random_strings(seed):
    """Short strings over one, some or all alphabets, in turn."""
    chance = random.Random(seed)
    for number in range(STRINGS):
        chosen = chance.sample(sorted(ALPHABETS), [1, 2, 3, len(ALPHABETS)][number % 4])
        alphabet = "".join(ALPHABETS[name] for name in chosen)
        yield "".join(chance.choices(alphabet, k=chance.randint(1, 40)))


def test_twenty_thousand_random_strings_give_the_ids_of_hugging_face():
    """Alphabets on which a pattern could differ, alone and mixed; the seed is fixed, the next test looks elsewhere."""
    differing = [text for text in random_strings(20261124) if real().encode(text) != theirs(text)]

    assert differing == []


@settings(max_examples=500)
@given(st.text(st.sampled_from(sorted(set("".join(ALPHABETS.values())))), max_size=60) | st.text(max_size=60))
def test_any_text_gives_the_ids_of_hugging_face(text):
    """Found by search, over the same alphabets and all of Unicode."""
    assert real().encode(text) == theirs(text)


@pytest.mark.parametrize("name", [*LANGUAGES, *CODE])
def test_real_text_gives_the_ids_of_hugging_face(name):
    """Languages and code, and each beside each: what follows decides how blanks before it are cut."""
    text = {**LANGUAGES, **CODE}[name]
    for other in ("", *LANGUAGES.values(), *CODE.values()):
        assert real().encode(text + other) == theirs(text + other)


def test_a_long_text_is_counted_in_pieces_as_if_it_were_one():
    """Pieces end between words or lines."""
    text = "\n".join((*LANGUAGES.values(), *CODE.values())) * 60

    assert len(text) > 2 * PIECE_CHARACTERS
    assert real().count(text) == len(theirs(text))


@pytest.mark.parametrize("run", ["a", "^", "\x00", "一", " ", "\n", "\r\n", "a\u0300", "😀", "0", "aB", "\ud800"])
def test_a_run_without_measure_is_counted_and_harms_nobody(run):
    """A megabyte of one thing, as somebody may send it: no panic of the library, no stack of its regular expressions."""
    assert real().count(run * (1024 * 1024 // len(run))) > 0


def test_a_packed_vocabulary_counts_like_the_one_it_was_made_of():
    """What is kept on disk gives the same tokenizer; a damaged file is told, not used."""
    data = packed(tokens_of(TOKENIZER_JSON.read_bytes()))

    assert unpacked(data).encode("Four, 四。") == theirs("Four, 四。")
    for damaged in (data[:-1], b"x" + data[1:], data[:100] + b"\x00" + data[101:], b""):
        with pytest.raises(ValueError, match="damaged"):
            unpacked(damaged)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"model":{"vocab":{"\xe4\xb8\x80":0}},"added_tokens":[]}'])
def test_a_file_that_is_no_vocabulary_is_told(text):
    """The package may change its file: a clear error, and estimates by size, not wrong counts."""
    with pytest.raises(ValueError, match="vocabulary"):
        tokens_of(text)
