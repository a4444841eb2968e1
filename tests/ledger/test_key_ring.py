import asyncio
import itertools
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger.given import Shelf
from ledger.test_client_keys import key

from proxy.errors import StoreUnavailableError
from proxy.ledger.client_keys import Known
from proxy.ledger.key_files import KeyFiles, Snapshot
from proxy.ledger.key_ring import FRESH_S, NAMES, SCRIPT, Clocks, KeyRing, may_serve
from proxy.ledger.store import connect

MAXIMUM_AGE_S = 1000.0
namespaces = itertools.count(1)
words = itertools.count(1)


class Time:
    """Both clocks, moved by hand."""

    def __init__(self):
        self.now_s = 1_000_000.0

    def clocks(self):
        return Clocks(lambda: self.now_s, lambda: self.now_s, lambda: f"word-{next(words)}")


class Replica:
    """A data dir, and the worker that runs on it; one that is not the first of its data dir keeps no snapshot."""

    def __init__(self, folder, store, time, *, keeps_snapshot=True):
        self.folder, self.store, self.time, self.keeps_snapshot = folder, store, time, keeps_snapshot
        self.seen_revoked = set()
        self.restart()

    def restart(self):
        self.ring = KeyRing(
            self.store.script(SCRIPT),
            KeyFiles(self.folder),
            self.time.clocks(),
            maximum_age_s=MAXIMUM_AGE_S,
            keeps_snapshot=self.keeps_snapshot,
        )
        self.ring.load()

    def note(self, known):
        KeyFiles(self.folder).note(known)

    async def refresh(self):
        await self.ring.refresh()
        self.seen_revoked |= self.ring.known.revoked.keys()

    def lets_in(self):
        usable = may_serve(self.ring.age_s(), "cached", MAXIMUM_AGE_S)
        return {one.id for one in self.ring.known.active(0.0)} if usable else set()


@pytest.fixture
def stage(shelf, tmp_path):
    """Runs `work(replica a, replica b, time)` on one namespace."""

    def run(work):
        async def whole(store):
            time = Time()
            await work(Replica(tmp_path / "a", store, time), Replica(tmp_path / "b", store, time), time)

        shelf.run(whole)

    return run


def known(*numbers, revoked=()):
    return Known({key(n).id: key(n) for n in numbers}, {key(n).id: 5.0 for n in revoked})


def test_a_change_reaches_the_other_replica(stage, shelf):
    """By way of Redis; one that has nothing new is told `same`."""

    async def work(a, b, _time):
        a.note(known(1, 2))
        await a.refresh()
        await b.refresh()
        assert b.lets_in() == {"key00001", "key00002"}
        a.note(known(revoked=[1]))
        await a.refresh()
        await b.refresh()
        assert b.lets_in() == {"key00002"}
        assert b"key00001" in shelf.hash("client_keys_revoked")
        state = shelf.client.get(shelf.key("client_keys_state")).decode()
        assert await a.store.script(SCRIPT)(NAMES, [state, "unused", "0"]) == [state.encode(), b"same"]

    stage(work)


def test_a_revocation_that_was_merely_read_outlives_a_wipe_and_a_restart(stage, shelf):
    """The data dir that made it is gone; the one that read it tells Redis again."""

    async def work(a, b, _time):
        a.note(known(1))
        a.note(known(revoked=[1]))
        await a.refresh()
        await b.refresh()
        shelf.restore({})
        b.restart()
        assert b.lets_in() == set()
        await b.refresh()
        assert b"key00001" in shelf.hash("client_keys_revoked")

    stage(work)


def test_a_revocation_needs_no_snapshot_to_be_kept(stage):
    """Every worker notes what it learns, also one that leaves the snapshot to another."""

    async def work(a, b, _time):
        b.keeps_snapshot = False
        b.restart()
        a.note(known(1, revoked=[1]))
        await a.refresh()
        await b.refresh()
        b.restart()
        assert b.ring.known.revoked.keys() == {"key00001"}

    stage(work)


def test_a_wipe_locks_nobody_out(stage, shelf):
    """Whoever has compared his keys with Redis lately tells it again."""

    async def work(a, b, _time):
        a.note(known(1, 2))
        await a.refresh()
        await b.refresh()
        shelf.restore({})
        await b.refresh()
        assert b.lets_in() == {"key00001", "key00002"}
        assert shelf.hash("client_keys").keys() == {b"key00001", b"key00002"}

    stage(work)


def test_who_was_away_for_too_long_brings_no_key_back(stage, shelf, tmp_path):
    """Its revocation may have been lost meanwhile; what was made here is told all the same."""

    async def work(a, b, time):
        a.note(known(1))
        b.note(known(2))
        for one in (a, b, a):
            await one.refresh()
        assert b.lets_in() == {"key00001", "key00002"}
        shelf.restore({})
        time.now_s += MAXIMUM_AGE_S + 1
        assert b.lets_in() == set()  # too old to decide anything
        b.restart()
        assert b.ring.known.keys.keys() == {"key00002"}
        await b.refresh()
        assert b.lets_in() == {"key00002"}
        assert shelf.hash("client_keys").keys() == {b"key00002"}

    stage(work)
    shutil.rmtree(tmp_path / "a")


def test_a_running_worker_that_was_cut_off_for_too_long_brings_no_key_back(stage, shelf):
    """The same without a restart."""

    async def work(a, b, time):
        a.note(known(1))
        for one in (a, b):
            await one.refresh()
        shelf.restore({})
        time.now_s += MAXIMUM_AGE_S + 1
        await b.refresh()
        assert b.lets_in() == set()
        assert shelf.hash("client_keys") == {}

    stage(work)


def test_a_rollback_that_was_changed_again_is_noticed(stage, shelf):
    """Two histories never share a state: a counter would have come to the same number."""

    async def work(a, b, _time):
        a.note(known(1))
        await a.refresh()
        before = shelf.dump()
        a.note(known(revoked=[1]))
        await a.refresh()
        await b.refresh()
        shelf.restore(before)
        b2 = Replica(b.folder.with_name("c"), b.store, b.time)
        b2.note(known(3))
        await b2.refresh()
        assert b2.lets_in() == {"key00001", "key00003"}  # it never heard of the revocation
        await b.refresh()
        await b2.refresh()
        assert b.lets_in() == b2.lets_in() == {"key00003"}

    stage(work)


def test_keys_are_as_old_as_the_question_however_late_the_answer_comes(stage):
    """Redis may have answered at once: what was revoked while its answer was on its way is not in it."""

    async def work(a, _b, time):
        ask = a.ring._ask

        async def late(*arguments):
            answer = await ask(*arguments)
            time.now_s += 2.0
            return answer

        a.ring._ask = late
        await a.refresh()
        assert a.ring.age_s() == 2.0

    stage(work)


def test_without_redis_the_snapshot_serves(tmp_path):
    """With its age; what is new in the data dir counts at once; a failed round is no comparison."""

    async def work():
        time = Time()
        KeyFiles(tmp_path).keep_snapshot(Snapshot(time.now_s - 10.0, known(1, 2)))
        store = connect("redis://127.0.0.1:1/0", "none", 1)
        replica = Replica(tmp_path, store, time)
        assert replica.ring.age_s() == pytest.approx(10.0)
        assert replica.lets_in() == {"key00001", "key00002"}
        replica.note(known(revoked=[2]))
        with pytest.raises(StoreUnavailableError):
            await replica.ring.refresh()
        assert await replica.ring.try_refresh() is False
        assert (replica.lets_in(), replica.ring.answers) == ({"key00001"}, False)
        assert replica.ring.age_s() == pytest.approx(10.0)
        await store.close()

    asyncio.run(work())


def test_what_redis_holds_and_nobody_can_read_opens_nothing(stage, shelf):
    """A field of a later release, text of somebody else, a key under another id; a revocation holds whatever its date."""

    async def work(a, _b, _time):
        a.note(known(1))
        await a.refresh()
        name = shelf.key("client_keys")
        shelf.client.hset(name, mapping={"later000": '{"id":"later000","x":1}', "text0000": "x", "other000": "{}"})
        shelf.client.hset(name, "stolen00", shelf.client.hget(name, "key00001"))
        shelf.client.hset(shelf.key("client_keys_revoked"), "key00001", "when?")
        shelf.client.set(shelf.key("client_keys_state"), "another")
        await a.refresh()
        assert a.lets_in() == set()
        assert a.ring.known.revoked == {"key00001": 0.0}
        assert a.ring.known.keys.keys() == {"key00001"}

    stage(work)


def test_a_key_of_another_type_is_refused(stage, shelf):
    """And nothing is written."""

    async def work(a, _b, _time):
        shelf.client.set(shelf.key("client_keys_revoked"), "x")
        a.note(known(1))
        with pytest.raises(StoreUnavailableError, match="not a hash"):
            await a.refresh()
        assert shelf.client.exists(shelf.key("client_keys")) == 0

    stage(work)


@pytest.mark.parametrize(
    ("age_s", "setting", "maximum_s", "serves"),
    [
        (0.0, "refuse", 60.0, True),
        (FRESH_S, "refuse", 60.0, True),
        (FRESH_S + 0.1, "refuse", 60.0, False),
        (60.0, "cached", 60.0, True),
        (60.1, "cached", 60.0, False),
        (1.0, "cached", 0.0, True),
        (float("inf"), "cached", 1e9, False),
        (float("inf"), "refuse", 1e9, False),
    ],
)
def test_how_old_keys_may_be(age_s, setting, maximum_s, serves):
    """One poll may fail without anybody noticing; keys that were never compared decide nothing."""
    assert may_serve(age_s, setting, maximum_s) is serves


numbers = st.integers(1, 3)
places = st.sampled_from(["a", "b"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), places, numbers),
        st.tuples(st.just("revoke"), places, numbers),
        st.tuples(st.just("refresh"), places),
        st.tuples(st.just("restart"), places),
        st.tuples(st.just("wait"), st.sampled_from([1.0, MAXIMUM_AGE_S * 2])),
        st.tuples(st.sampled_from(["save", "roll back", "wipe"])),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps)
def test_what_was_seen_revoked_is_never_let_in_again(server, client, tmp_path, history):
    """Whatever is added, revoked, rolled back, wiped, restarted and replayed, in whatever order.

    By the replica that saw it, at any time; by all of them, once each has compared twice.
    """
    shelf = Shelf(server.url, client, f"history{next(namespaces)}")
    folder = tmp_path / shelf.namespace

    async def work(store):
        time, saved = Time(), {}
        replicas = {name: Replica(folder / name, store, time, keeps_snapshot=name == "a") for name in "ab"}
        for step in history:
            if step[0] == "save":
                saved = shelf.dump()
            elif step[0] in ("roll back", "wipe"):
                shelf.restore(saved if step[0] == "roll back" else {})
            else:
                await do(replicas, time, *step)
            for replica in replicas.values():
                assert not replica.lets_in() & replica.seen_revoked
        for replica in (*replicas.values(), *replicas.values()):
            await replica.refresh()
        check_all_agree(replicas.values(), history)

    shelf.run(work)


async def do(replicas, time, word, place, number=0):
    """One step of a history."""
    if word == "wait":
        time.now_s += place
    elif word == "add":
        replicas[place].note(known(number))
    elif word == "revoke":
        replicas[place].note(known(revoked=[number]))
    elif word == "refresh":
        await replicas[place].refresh()
    else:
        replicas[place].restart()


def check_all_agree(replicas, history):
    """Everything that was made and never revoked is let in, and nothing else."""
    made = {key(step[2]).id for step in history if step[0] == "add"}
    revoked = {key(step[2]).id for step in history if step[0] == "revoke"}
    for replica in replicas:
        assert replica.seen_revoked <= replica.ring.known.revoked.keys()
        assert replica.lets_in() == made - revoked
