"""Chains of any notes: what was written is proven, and whatever is done to them afterwards is told, by its entry."""

import string

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gateway.client_keys import new_key
from proxy.ledger.audit import (
    Action,
    AuditEntry,
    Head,
    audit_key,
    decoded,
    encoded,
    entry_behind,
    head_of,
    holds,
    key_id,
    note_of,
)
from proxy.ledger.audit_file import Content
from proxy.ledger.audit_proof import Fault, heads_in, proof
from proxy.ledger.audit_stream import Copy

KEY, OTHER_KEY = audit_key(b"a secret"), audit_key(b"another secret")
CHAIN = "0001-0a1b2c3d"

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)
details = st.dictionaries(st.text(max_size=8), json, max_size=2)
few = settings(max_examples=40)
notes = st.builds(note_of, st.sampled_from(Action), st.text(max_size=20), details)


def chain_of(made, key=KEY, chain=CHAIN):
    """A chain with these notes behind its beginning."""
    head, entries = Head(chain, 0, ""), []
    for number, note in enumerate([note_of(Action.CHAIN_BEGAN, "audit", {"host": "h"}), *made]):
        entries.append(entry_behind(head, note, who="root: test", at_ms=number, key=key))
        head = head_of(entries[-1])
    return entries


chains = st.lists(notes, min_size=2, max_size=5).map(chain_of)


def faults(entries, heads=(), copies=(), stored=None):
    """What is said of a chain in a file."""
    content = Content(CHAIN, list(entries))
    return proof([content], copies, stored or {}, heads, KEY).faults


def copies_of(entries):
    return [Copy(f"{n}-0", one.chain, str(one.number), encoded(one)) for n, one in enumerate(entries, start=1)]


def proven(entries, copied, heads=(), sent=None):
    """The proof of a chain of which so many entries were sent to the stream, all that are in it if nothing is said."""
    stored = {CHAIN: len(copied) if sent is None else sent}
    return proof([Content(CHAIN, list(entries))], copied, stored, heads, KEY)


@few
@given(chains)
def test_what_was_written_is_proven(entries):
    """File, stream and every head that was ever logged; read back as the same bytes."""
    found = proven(entries, copies_of(entries), [head_of(entry) for entry in entries])

    assert found.fine, found
    assert [decoded(encoded(entry)) for entry in entries] == entries
    assert (found.chains[0].number, found.chains[0].mac) == head_of(entries[-1])[1:]


CHANGES = {
    "at_ms": lambda old: old + 1,
    "who": lambda old: old + "x",
    "action": lambda old: Action.STARTED if old is not Action.STARTED else Action.STOPPED,
    "subject": lambda old: old + "x",
    "detail": lambda old: {**old, "more": 1},
    "previous": lambda _old: "0" * 64,
    "mac": lambda _old: "0" * 64,
    "number": lambda old: old + 1,
    "chain": lambda _old: "0001-ffffffff",
    "key": lambda _old: key_id(OTHER_KEY),
}


@few
@given(chains, st.data())
@pytest.mark.parametrize("field", CHANGES)
def test_an_edit_of_any_field_is_told_at_its_entry(field, entries, data):
    """All fields are there, so that a new one cannot be left out of the MAC; in the file, and in the stream."""
    assert CHANGES.keys() == set(AuditEntry.__struct_fields__)
    index = data.draw(st.integers(0 if field != "key" else 1, len(entries) - 1))
    changed = {field: CHANGES[field](getattr(entries[index], field))}
    spoilt = [*entries]
    spoilt[index] = msgspec.structs.replace(entries[index], **changed)

    assert [fault.number for fault in faults(spoilt)] == [index + 1]
    assert any(
        fault.place == "stream" and fault.number == index + 1 for fault in proven(entries, copies_of(spoilt)).faults
    )


@few
@given(chains, st.data())
def test_a_deletion_is_told_at_its_entry(entries, data):
    """By the chain itself, but for its end; by the other copy always."""
    index = data.draw(st.integers(0, len(entries) - 1))
    left, sent = entries[:index] + entries[index + 1 :], len(entries)
    from_file = proven(left, copies_of(entries)).faults
    from_stream = proven(entries, copies_of(left), sent=sent).faults

    assert Fault("file", CHAIN, index + 1, "is missing; the stream has it") in from_file
    assert from_stream == [Fault("stream", CHAIN, index + 1, "is missing")]
    assert [fault.number for fault in faults(left)] == ([index + 1] if index + 1 < sent else [])


@few
@given(chains, st.data())
def test_an_insertion_is_told(entries, data):
    """A copy of an entry anywhere else, and one made with another secret."""
    index, at = data.draw(st.integers(0, len(entries) - 1)), data.draw(st.integers(0, len(entries)))
    head = head_of(entries[at - 1]) if at else Head(CHAIN, 0, "")
    forged = entry_behind(head, note_of(Action.REPRICED, "x", {}), who="x", at_ms=0, key=OTHER_KEY)

    assert faults([*entries[:at], entries[index], *entries[at:]])
    assert faults([*entries[:at], forged, *entries[at:]])
    assert faults([*entries[:at], msgspec.structs.replace(forged, key=key_id(KEY)), *entries[at:]])[0].number == at + 1


@few
@given(chains, st.data())
def test_a_swap_is_told_at_the_first_of_the_two(entries, data):
    """In the file by the numbers; in the stream by its order."""
    first, second = sorted(data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=2, max_size=2)))
    swapped = [*entries]
    swapped[first], swapped[second] = entries[second], entries[first]

    assert [fault.number for fault in faults(swapped)] == [first + 1]
    assert [fault.what for fault in proven(entries, copies_of(swapped)).faults] == ["its entries do not stand in order"]


@few
@given(chains, chains, st.data())
def test_two_histories_do_not_make_one(entries, other, data):
    """Each entry is genuine, with a MAC of its own: a data dir went back and lived twice. Its links tell."""
    at = data.draw(st.integers(1, min(len(entries), len(other))))
    spliced = entries[:at] + other[at:]

    assert bool(faults(spliced)) == (spliced not in (entries[: len(spliced)], other))


@few
@given(chains, st.data())
def test_a_truncation_is_told_by_a_logged_head(entries, data):
    """A cut chain looks whole, in both places; the head in a log elsewhere says that there was more."""
    kept = data.draw(st.integers(1, len(entries) - 1))
    logged = head_of(entries[data.draw(st.integers(kept, len(entries) - 1))])
    cut = entries[:kept]

    assert proven(cut, copies_of(cut)).fine
    assert [(one.place, one.number) for one in proven(cut, copies_of(cut), [logged]).faults] == [
        ("heads", logged.number)
    ]


@few
@given(chains, st.data())
def test_history_written_anew_with_the_secret_is_told_by_a_logged_head(entries, data):
    """Somebody with root can make a chain that holds; it is not the one whose heads were logged."""
    changed = data.draw(st.integers(1, len(entries) - 1))
    made = [note_of(one.action, one.subject, one.detail) for one in entries[1:]]
    made[changed - 1] = note_of(Action.REPRICED, "somebody else", {})
    anew = chain_of(made)
    logged = [head_of(entry) for entry in entries]

    assert proven(anew, copies_of(anew)).fine or anew == entries
    assert proven(anew, copies_of(anew), logged).faults or anew == entries


@few
@given(chains)
def test_a_chain_that_is_gone_is_told(entries):
    """In the data dir, in both places with a head, and from the stream."""
    logged = [head_of(entries[-1])]

    assert not proof([], copies_of(entries), {CHAIN: len(entries)}, (), KEY).fine
    assert [fault.place for fault in proof([], [], {}, logged, KEY).faults] == ["heads"]
    assert {fault.what for fault in proven(entries, []).faults} == set()
    assert proven(entries, []).pending == len(entries)
    assert proof([Content(CHAIN, entries)], [], {CHAIN: len(entries)}, (), KEY).faults[0].what == "is missing"


@few
@given(chains, st.data())
def test_any_other_byte_is_no_entry_or_another_one(entries, data):
    """A line is told from what was written, to the byte: also by white space, the order of names, a name twice."""
    line = encoded(entries[-1])
    at = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != line[at]))
    found = decoded(line[:at] + bytes([byte]) + line[at + 1 :])

    assert found is None or not holds(found, KEY) or found.key != key_id(KEY)
    assert decoded(line + b" ") is None
    assert decoded(line[:-1] + b',"mac":"x"}') is None


def test_a_chain_made_with_another_secret_is_compared_by_its_links():
    """Another installation's on the same Redis: said not to be checked, and no fault as long as its links hold."""
    theirs = chain_of(
        [note_of(Action.STARTED, "service", {}), note_of(Action.STOPPED, "service", {})], OTHER_KEY, "0001-ffffffff"
    )
    ours = chain_of([])
    copies = copies_of([*ours, *theirs])
    found = proof([Content(CHAIN, ours)], copies, {CHAIN: 1, "0001-ffffffff": 3}, (), KEY)

    assert found.fine
    assert [(one.here, one.checked) for one in found.chains] == [(True, True), (False, False)]
    cut = proof([Content(CHAIN, ours)], copies[:-1], {CHAIN: 1, "0001-ffffffff": 3}, (), KEY)
    assert [(fault.chain, fault.number) for fault in cut.faults] == [("0001-ffffffff", 3)]


def test_the_newest_chain_has_to_be_ours():
    """A whole data dir laid there by somebody without the secret."""
    forged = chain_of([note_of(Action.STARTED, "service", {})], OTHER_KEY)

    assert "another secret" in proven(forged, copies_of(forged)).faults[0].what


@pytest.mark.parametrize(
    "text",
    [
        "sk-not-a-key",
        "Authorization: Bearer abcdef",
        "a prompt with sk-0123456789abcdef in it",
    ],
)
def test_what_looks_like_a_key_is_masked(text):
    """Whoever notes it, and wherever: subject, name, value, inside a list."""
    note = note_of(Action.KEY_ADDED, text, {text: [text, {text: text}]})
    entry = entry_behind(Head(CHAIN, 0, ""), note, who=text, at_ms=0, key=KEY)

    assert not {b"not-a-key", b"abcdef"} & {
        word
        for word in (b"not-a-key", b"abcdef")
        if word in encoded(entry).replace(entry.mac.encode(), b"").replace(entry.key.encode(), b"")
    }
    assert "***" in note.subject


@pytest.mark.parametrize("around", ["{}", "replaces {}, which leaked", "key={}", "old_{}", "é{}é", "'{}'", "{}…"])
@pytest.mark.parametrize("characters", [17, 36, 37], ids=["a part of it", "all but the end", "the whole key"])
def test_a_client_key_of_ours_is_masked(around, characters):
    """What an operator writes into a note, a key that is cut included: nothing of its secret is left."""
    _, key = new_key(lambda _n: 10)
    detail = note_of(Action.KEY_ADDED, "x", {"note": around.format(key[:characters])}).detail

    assert "***" in detail["note"]
    assert "AAAA" not in detail["note"]


@pytest.mark.parametrize(
    "text", ["AbCdEfGh", "dsm_AbCdEfGh", "replaces dsm_AbCdEfGh, which leaked", "dsm_tests", "dsm_"]
)
def test_the_id_of_a_client_key_stays_readable(text):
    """It names the key in `keys list`, with its prefix or not, and tells nothing of the secret."""
    note = note_of(Action.KEY_REVOKED, text, {"note": text})

    assert (note.subject, note.detail) == (text, {"note": text})


def test_a_note_is_a_fact_and_no_dump():
    """Long texts are cut, a detail above 4 KiB is refused."""
    assert len(note_of(Action.STARTED, "x" * 10_000, {}).subject) == 300
    with pytest.raises(ValueError, match="4096"):
        note_of(Action.STARTED, "x", {str(n): "y" * 300 for n in range(20)})


MAC = "5f" * 32


@pytest.mark.parametrize(
    "line",
    [
        f'{{"chain": "{CHAIN}", "number": 12, "mac": "{MAC}", "event": "audit_head", "level": "info"}}',
        f'2026-11-24T21:00:00Z stderr F {{"event": "audit_head", "mac": "{MAC}", "number": 12, "chain": "{CHAIN}"}}',
        f'{{"log":"{{\\"chain\\": \\"{CHAIN}\\", \\"number\\": 12, \\"mac\\": \\"{MAC}\\", \\"event\\": \\"audit_head\\"}}"}}',
        f"2026-11-24T21:00:00.1Z [info     ] audit_head                     chain={CHAIN} mac={MAC} number=12",
        f"\x1b[2m2026\x1b[0m [\x1b[32minfo\x1b[0m] \x1b[1maudit_head\x1b[0m \x1b[36mchain\x1b[0m=\x1b[35m{CHAIN}\x1b[0m \x1b[36mmac\x1b[0m=\x1b[35m{MAC}\x1b[0m \x1b[36mnumber\x1b[0m=\x1b[35m12\x1b[0m",
        f"Nov 24 21:00:00 host deepseek-meter[7]: [info] audit_head chain={CHAIN} mac={MAC} number=12",
    ],
)
def test_heads_are_found_in_logs_as_they_come(line):
    """JSON, text, coloured, and with what journald, Kubernetes or Docker put around it."""
    assert list(heads_in(["nothing", line])) == [Head(CHAIN, 12, MAC)]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_head_is_an_error(cut):
    """A head that cannot be read proves nothing, and is not passed over."""
    line = f"[info] audit_head chain={CHAIN} number=12 mac={MAC}"
    with pytest.raises(ValueError, match="audit_head"):
        list(heads_in([line[:-cut]]))


def test_names_in_a_detail_are_texts():
    """So that an entry is JSON for every reader."""
    assert all(character in string.printable for character in encoded(chain_of([])[0]).decode())


@few
@given(chains, st.integers(1, 10**17))
def test_a_stream_that_had_more_than_there_is_anywhere_is_told(entries, more):
    """Cut off in both, and its head left; in one fault, however large the number that somebody wrote there."""
    found = proven(entries, copies_of(entries), sent=len(entries) + more).faults

    assert [(fault.place, fault.number) for fault in found] == [("file", len(entries) + 1)]
