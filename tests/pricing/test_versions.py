import json
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FLASH, FLASH_1017, PRO, at

from proxy.pricing.versions import UNKNOWN_VERSION, Resolution, expected, mismatch, resolve, without_host
from proxy.usage import LABEL_CHARACTERS, How

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
NOW = at("2026-11-23T12:00:00Z")
FLASH_0731 = "DeepSeek-V4-Flash-0731"


def answered(catalog, *, requested="", served="", fingerprint="", at_s=NOW, routes=None, upstream="default", api=""):
    return resolve(
        catalog,
        upstream=upstream,
        requested=requested,
        served=served,
        fingerprint=fingerprint,
        at_s=at_s,
        api=api,
        routes=routes or {},
    )


@pytest.mark.parametrize(
    ("name", "change", "before", "after"),
    [
        ("deepseek-flash", "2026-09-10T04:00:00Z", None, FLASH),
        ("deepseek-flash", "2026-10-17T00:00:00Z", FLASH, FLASH_1017),
        ("deepseek-v4-flash", "2026-04-24T00:00:00Z", None, "DeepSeek-V4-Flash"),
        ("deepseek-v4-flash", "2026-07-31T00:00:00Z", "DeepSeek-V4-Flash", FLASH_0731),
        ("deepseek-v4-flash", "2026-09-10T04:00:00Z", FLASH_0731, FLASH),
        ("deepseek-v4-flash", "2026-10-17T00:00:00Z", FLASH, FLASH_1017),
        ("deepseek-v4-flash-vision-exp", "2026-08-21T00:00:00Z", None, "DeepSeek-V4-Flash-Vision-Exp"),
        ("deepseek-v4-flash-vision-exp", "2026-09-10T04:00:00Z", "DeepSeek-V4-Flash-Vision-Exp", FLASH),
        ("deepseek-v4-flash-vision-exp", "2026-10-17T00:00:00Z", FLASH, FLASH_1017),
        ("deepseek-v4-pro", "2026-04-24T00:00:00Z", None, "DeepSeek-V4-Pro"),
        ("deepseek-v4-pro", "2026-08-13T00:00:00Z", "DeepSeek-V4-Pro", PRO),
        ("deepseek-v4-pro", "2026-09-14T04:00:00Z", PRO, PRO),
        ("deepseek-chat", "2026-07-24T15:59:00Z", "DeepSeek-V4-Flash", None),
        ("deepseek-reasoner", "2026-07-24T15:59:00Z", "DeepSeek-V4-Flash", None),
    ],
)
def test_an_alias_changes_at_its_second(catalog, name, change, before, after):
    """One second before a change the name means the old version, at the change the new one, served or requested."""
    for at_s, version in ((at(change) - 1, before), (at(change), after)):
        meant = Resolution(version or name, How.ALIAS if version else How.SERVED_NAME)
        assert meant == answered(catalog, requested="whatever", served=name, at_s=at_s)
        assert version == expected(catalog, requested=name, at_s=at_s)


def test_the_requested_name_counts_when_nothing_was_served(catalog):
    """Without a served name the alias of the requested one decides; with one, only the served name does."""
    assert Resolution(FLASH_1017, How.ALIAS) == answered(catalog, requested="deepseek-flash")
    assert Resolution("other", How.SERVED_NAME) == answered(catalog, requested="deepseek-flash", served="other")
    assert Resolution(PRO, How.ALIAS) == answered(catalog, requested="deepseek-flash", served="deepseek-v4-pro")


@pytest.mark.parametrize("suffix", ["", "_prod0820_fp8_kvcache_20260402", "_prod0101"])
def test_a_fingerprint_goes_before_the_alias_whatever_its_suffix(catalog, suffix):
    """What answered counts more than what was promised, and the serving build behind the prefix does not."""
    found = answered(catalog, served="deepseek-flash", fingerprint=f"fp_a18b46594c{suffix}")

    assert Resolution(FLASH_0731, How.FINGERPRINT) == found


def test_a_bare_fingerprint_is_compared_whole(catalog):
    """Of a 32-hex fingerprint every digit counts."""
    known = "a26a7955944dc5c60445bff77fac9c8e"

    assert answered(catalog, served="deepseek-v4-flash", fingerprint=known).how == How.FINGERPRINT
    assert answered(catalog, served="deepseek-v4-flash", fingerprint=known[:-1] + "f").how == How.ALIAS


def test_a_route_goes_before_everything(catalog):
    """What the operator configured is true, for one upstream or for all."""
    routes = {"default": {"mine": "R", "my-*": "T", "my-own-*": "U"}, "there": {"mine": "S"}}
    known = "fp_a18b46594c"

    assert Resolution("R", How.ROUTE) == answered(catalog, requested="mine", fingerprint=known, routes=routes)
    assert Resolution("S", How.ROUTE) == answered(catalog, requested="mine", upstream="there", routes=routes)
    assert expected(catalog, requested="mine", at_s=NOW, upstream="there", routes=routes) == "S"
    assert Resolution("T", How.ROUTE) == answered(catalog, requested="my-r1", routes=routes)
    assert Resolution("U", How.ROUTE) == answered(catalog, requested="my-own-r1", routes=routes)
    assert answered(catalog, requested="other", fingerprint=known, routes=routes).how == How.FINGERPRINT
    assert answered(catalog, requested="mine", upstream="elsewhere", routes=routes).how == How.REQUESTED_NAME


@pytest.mark.parametrize(
    ("served", "version"),
    [
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-R1"),
        ("deepseek/deepseek-chat", "deepseek-chat"),
        ("accounts/fireworks/models/deepseek-v3p1", "deepseek-v3p1"),
        ("deepseek-r1-distill-llama-70b", "deepseek-r1-distill-llama-70b"),
        ("odd/", "odd/"),
    ],
)
def test_a_name_stands_without_its_host(catalog, served, version):
    """A name the catalog does not know is its own version, without the folders of the host."""
    assert Resolution(version, How.SERVED_NAME) == answered(catalog, served=served)
    assert Resolution(version, How.REQUESTED_NAME) == answered(catalog, requested=served)
    assert version == without_host(served)


def test_nothing_known_has_its_own_name(catalog):
    """No route, no fingerprint and no name is `unknown`, and nobody expects anything."""
    assert Resolution(UNKNOWN_VERSION, How.UNKNOWN) == answered(catalog, fingerprint="fp_new", served=" ")
    assert expected(catalog, requested="unheard-of", at_s=NOW) is None


@given(served=st.text(max_size=300), requested=st.text(max_size=300), fingerprint=st.text(max_size=60))
def test_a_version_is_always_a_label(catalog, served, requested, fingerprint):
    """Whatever was sent, a version is printable, not empty and at most 128 characters long."""
    version = answered(catalog, served=served, requested=requested, fingerprint=fingerprint).version

    assert version.isprintable()
    assert 0 < len(version) <= LABEL_CHARACTERS


RECORDED = {
    "ds-v4alias-stream-opencode-no-include-usage": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-v4alias-stream-opencode-include-usage-absent-null": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-v4alias-chat-tools-stream": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-responses-v4flash-nonstream": (FLASH_0731, How.ALIAS),
    "ds-responses-v4flash-stream": (FLASH_0731, How.ALIAS),
    "ds-v4flash-thinking-disabled": (FLASH_0731, How.FINGERPRINT),
    "ds-v4flash-thinking-high": (FLASH_0731, How.FINGERPRINT),
    "ds-v4-deferred-thinking-tools": (FLASH_0731, How.FINGERPRINT),
    "ds-v4flash-chat-stream-hexfp": (FLASH_0731, How.FINGERPRINT),
    "ds-v4flash-logprobs-stream": (FLASH_0731, How.FINGERPRINT),
    "ds-v4flash-thinking-length-stream": (FLASH_0731, How.FINGERPRINT),
    "ds-v4pro-toolchoice-forced": (PRO, How.ALIAS),
}


@pytest.fixture
def recordings():
    if not RECORDINGS.is_dir():
        pytest.skip("no recordings beside the project (../shared/recordings)")
    return RECORDINGS


@pytest.mark.parametrize(("name", "found"), RECORDED.items(), ids=RECORDED.keys())
def test_recorded_exchanges_of_2026_have_their_version(catalog, recordings, name, found):
    """Real names, fingerprints and instants give the version that answered, and the alias agrees with it."""
    meta = json.loads((recordings / name / "meta.json").read_text())
    created = recorded_at_s(meta["date_recorded"])
    asked = {"requested": meta["model_requested"] or "", "served": meta["model"], "at_s": created}

    assert Resolution(*found) == answered(catalog, fingerprint=meta["system_fingerprint"] or "", **asked)
    assert found[0] == answered(catalog, **asked).version


def recorded_at_s(text):
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return parsedate_to_datetime(text).timestamp()


@pytest.mark.parametrize(
    ("wanted", "version", "counted"),
    [
        ("", FLASH_1017, ""),
        (FLASH_1017, FLASH_1017, ""),
        (FLASH_1017, f"{FLASH_1017}+r2", ""),
        (f"{FLASH_1017}+r2", f"{FLASH_1017}+r2", ""),
        (f"{FLASH_1017}+r2", FLASH_1017, ""),  # judged when the record is folded
        (f"{FLASH_1017}+r2", PRO, f"{FLASH_1017}+r2"),
        (f"{FLASH_1017}+r99", PRO, UNKNOWN_VERSION),
        (PRO, FLASH_1017, PRO),
        ("a client's own words", FLASH_1017, UNKNOWN_VERSION),
        (PRO, UNKNOWN_VERSION, ""),
    ],
)
def test_an_expectation_that_another_version_answered(catalog, wanted, version, counted):
    """Without a revision any will do; what the catalog does not know cannot make a series."""
    assert mismatch(catalog, wanted, version) == counted


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-opus-4-1", PRO),
        ("claude-sonnet-4-5", FLASH_1017),
        ("claude-haiku-x", FLASH_1017),
        ("gpt-9", FLASH_1017),
    ],
)
def test_names_of_other_makers_mean_something_in_anthropics_dialect(catalog, name, version):
    """Any name that is not supported is Flash there; in the other dialects it is nobody's."""
    assert Resolution(version, How.ALIAS) == answered(catalog, requested=name, api="anthropic")
    assert expected(catalog, requested=name, at_s=NOW, api="anthropic") == version
    assert answered(catalog, requested=name, api="chat").how == How.REQUESTED_NAME
    assert answered(catalog, requested="", api="anthropic").how == How.UNKNOWN
