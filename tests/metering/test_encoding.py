import gzip
import zlib

import pytest
from metering.given import read

from proxy.metering.encoding import MAX_PLAIN_BYTES, PIECE_BYTES, decompressor
from proxy.metering.faults import MeteringFaultError
from proxy.metering.meter import Meter
from proxy.usage import Api, Missing

EVENT = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


@pytest.mark.parametrize("name", ["", "identity", " Identity "])
def test_a_plain_body_needs_no_reader(name):
    """No encoding, or the one that means none."""
    assert decompressor(name) is None


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP", " gzip "])
def test_the_name_of_an_encoding_is_read_as_http_writes_it(name):
    """In any case, with blanks around it."""
    assert read([gzip.compress(EVENT)], content_encoding=name)["report"].usage.total == 7


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "gzip, br", "nonsense"])
def test_an_encoding_we_do_not_read_is_named(name):
    """The body passes unread, and the reading says why."""
    reading = read([b"\x8b\x00", EVENT], content_encoding=name)

    assert (reading["report"], reading["fault"]) == (None, Missing.CONTENT_ENCODING)


def test_data_that_is_not_compressed_as_it_says_is_named():
    """Bytes that are no gzip end the metering with the same reason."""
    assert read([EVENT], content_encoding="gzip")["fault"] is Missing.CONTENT_ENCODING


def test_a_body_damaged_behind_its_usage_keeps_it():
    """What was reported before the damage counts."""
    packed = zlib.compressobj(wbits=31)
    first = packed.compress(EVENT) + packed.flush(zlib.Z_FULL_FLUSH)
    reading = read([first, b"\xff\xff\xff\xff"], content_encoding="gzip")

    assert reading["report"].usage.total == 7


def test_a_compressed_event_is_seen_when_it_passes():
    """A host that flushes behind every event is read event by event, not at the end."""
    packed, meter = zlib.compressobj(wbits=31), Meter(Api.CHAT, "gzip")
    meter.feed(packed.compress(b"data: [DONE]\n\n") + packed.flush(zlib.Z_SYNC_FLUSH))

    assert meter.ended


def test_all_members_of_a_gzip_body_are_read():
    """A gzip body may be several files one behind the other (RFC 1952, section 2.2)."""
    body = gzip.compress(b"data: {}\n\n") + gzip.compress(EVENT)

    assert read([body], content_encoding="gzip")["report"].usage.total == 7
    assert read([body[:40], body[40:]], content_encoding="gzip")["report"].usage.total == 7


@pytest.mark.parametrize(
    ("filling", "missing"),
    [
        (b"\n", Missing.BODY_TOO_LARGE),
        (b"data: " + b"x" * 122, Missing.EVENT_TOO_LARGE),
        (b'{"a":"' + b"x" * 122, Missing.BODY_TOO_LARGE),
    ],
)
def test_a_bomb_stays_small(filling, missing):
    """A body that grows a thousandfold is let go at a cap, and nothing of it is held on to."""
    bomb = gzip.compress(filling * ((MAX_PLAIN_BYTES + 2 * PIECE_BYTES) // len(filling)), compresslevel=1)
    meter = Meter(Api.CHAT, "gzip")
    meter.feed(bomb)

    assert meter.finish().fault is missing
    assert len(meter._head) + sum(map(len, meter._body)) == 0


def test_what_comes_out_comes_in_small_pieces():
    """No piece is larger than the cap on pieces, however much one chunk holds."""
    pieces = list(decompressor("gzip").feed(gzip.compress(b"x" * 1_000_000)))

    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= PIECE_BYTES


def test_growing_beyond_the_cap_raises():
    """The reader of compressed data says itself when there is too much."""
    bomb = gzip.compress(b"\0" * (MAX_PLAIN_BYTES + 1), compresslevel=1)
    with pytest.raises(MeteringFaultError) as raised:
        for _ in decompressor("gzip").feed(bomb):
            pass

    assert raised.value.missing is Missing.BODY_TOO_LARGE
