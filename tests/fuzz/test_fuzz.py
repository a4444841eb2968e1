"""The fuzzer's short form: a fixed seed, and what hypothesis finds. The long one is `make fuzz`."""

import random

from fuzz.__main__ import run_seed
from fuzz.bodies import MUTATIONS, TOKENS, bodies, seeds
from fuzz.checks import check
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_fixed_seed_finds_nothing():
    """A hundred spoilt bodies in ten thousand chunks and more: no exception, bytes out as in, memory bounded."""
    found = [run_seed(seed, most=50) for seed in (20261124, 4)]

    assert sum(chunks for chunks, _ in found) > 10_000
    assert sum(violations for _, violations in found) == 0


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.lists(st.binary(max_size=30) | st.sampled_from(TOKENS), max_size=25))
def test_no_pieces_put_together_break_it(seed, parts):
    """Tokens that mean something, in any order, in any cut."""
    check(random.Random(seed), b"".join(parts))


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from(seeds()), st.lists(st.sampled_from(MUTATIONS), max_size=5))
def test_no_spoilt_body_breaks_it(seed, body, mutations):
    """A body we know, spoilt a few times."""
    chance = random.Random(seed)
    for mutation in mutations:
        body = mutation(chance, body)
    check(chance, body)


def test_the_fuzzer_can_find_something(monkeypatch):
    """A meter that raised would be told."""
    monkeypatch.setattr("proxy.metering.chat.text_of", lambda _: 1 / 0)

    assert run_seed(4, most=100)[1] > 0


def test_the_bodies_are_spoilt():
    """What comes out differs from what is known, and the same seed brings it back."""
    known = set(seeds())
    first = [body for body, _ in zip(bodies(random.Random(1)), range(50), strict=False)]
    again = [body for body, _ in zip(bodies(random.Random(1)), range(50), strict=False)]

    assert first == again
    assert sum(body not in known for body in first) > 20
