"""What is told of a change of settings or catalog, and what never is."""

import msgspec
import pytest
from test_cli import OWN

from proxy.audit_facts import (
    catalog_facts,
    catalog_notes,
    differences,
    settings_facts,
    settings_notes,
    version_identity,
    version_note,
)
from proxy.catalog_files import catalog_with
from proxy.ledger.answers import Change
from proxy.settings import load_settings

KEY = b"k" * 32


def settings_told(before, after):
    """The notes on two settings files, as (action, subject, changed)."""
    old, new = (settings_facts(load_settings(toml_text=text), KEY) for text in (before, after))
    return told(settings_notes, old, new)


def told(notes_of, old, new):
    notes = [note for one in differences(old, new) for note in notes_of(one)]
    return [(note.action, note.subject, note.detail["what"], note.detail["changed"]) for note in notes]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        (
            "[gateway]\nworkers = 2\n[log]\nlevel = 'info'",
            "[gateway]\nworkers = 4\n[log]\nlevel = 'debug'",
            [
                ("settings_changed", "[gateway]", "changed", {"workers": ["2", "4"]}),
                ("settings_changed", "[log]", "changed", {"level": ["info", "debug"]}),
            ],
        ),
        (
            "",
            "[versions.X]\nspend_limit_usd_per_hour = 5.0",
            [
                (
                    "settings_changed",
                    "[versions.X]",
                    "added",
                    {"spend_limit_usd_per_hour": [None, "5.0"], "fixed": [None, "None"]},
                )
            ],
        ),
        (
            "[[upstreams]]\nname='own'\nurl='http://a'\nmodels=['m']",
            "[[upstreams]]\nname='own'\nurl='http://b'\nmodels=['m']",
            [("settings_changed", "[[upstreams]] own", "changed", {"url": ["http://a", "http://b"]})],
        ),
    ],
)
def test_a_changed_setting_is_told_with_both_values(before, after, expected):
    """By section and key; of sections with names, by the name."""
    assert settings_told(before, after) == expected


def test_a_removed_section_is_told():
    """A limit that is gone is a change worth knowing."""
    ((_, subject, what, changed),) = settings_told("[apps.bot]\ndrain_seconds = 3.0", "")

    assert (subject, what, changed["drain_seconds"]) == ("[apps.bot]", "removed", ["3.0", None])


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("key_hash_secret", "[gateway]\nkey_hash_secret = 'hush-one'", "[gateway]\nkey_hash_secret = 'hush-two'"),
        ("redis_url", "[store]\nredis_url = 'redis://u:hush-one@h'", "[store]\nredis_url = 'redis://u:hush-two@h'"),
    ],
)
def test_a_changed_secret_is_told_and_never_its_value(key, before, after):
    """Neither in the note nor in what is remembered for the next start."""
    ((_, _, _, changed),) = settings_told(before, after)
    facts = settings_facts(load_settings(toml_text=after), KEY)

    assert changed[key][1] == "*** (changed)"
    assert "hush" not in str(changed)
    assert b"hush" not in msgspec.json.encode(facts)


def test_budgets_have_an_action_of_their_own():
    """By the budget's name."""
    before = "[[budgets]]\nname = 'team'\nlimit = 5\nperiod = 'month'"
    after = "[[budgets]]\nname = 'team'\nlimit = 9\nperiod = 'day'"

    assert settings_told(before, after) == [
        ("budget_changed", "[[budgets]] team", "changed", {"limit": ["5.0", "9.0"], "period": ["month", "day"]})
    ]


@pytest.mark.parametrize(
    ("written", "told"),
    [("it's", "it's"), ("back\\\\slash", "back\\slash"), ("two\\nlines", "two\nlines")],
)
def test_a_text_is_told_as_it_is(written, told):
    """Without quotes and escapes; a list of texts keeps them, to be read as one."""
    ((_, _, _, changed),) = settings_told("", f'[console]\ntime_zone = "{written}"\nallowed_hosts = ["a.example"]')

    assert changed == {"time_zone": ["UTC", told], "allowed_hosts": ["()", "('a.example',)"]}


def test_what_is_remembered_of_a_text_keeps_its_quotes():
    """What an earlier release has remembered has them: without, an update would note changes that nobody made."""
    assert settings_facts(load_settings(), KEY)["[log]"]["level"][0] == "'info'"


def catalog_told(tmp_path, before, after):
    facts = []
    for text in (before, after):
        (tmp_path / "own.toml").write_text(text)
        facts.append(catalog_facts(catalog_with(str(tmp_path / "own.toml"))))
    return told(catalog_notes, *facts)


def test_a_changed_price_is_told_with_both_prices(tmp_path):
    """By its id."""
    ((action, subject, what, changed),) = catalog_told(tmp_path, OWN, OWN.replace('"0.4"', '"0.5"'))

    assert (action, subject, what) == ("price_changed", "price my-r1-usd", "changed")
    assert list(changed) == ["per_million"]
    assert [one["output"] for one in changed["per_million"]] == ["0.4", "0.5"]


def test_everything_an_own_catalog_adds_is_told(tmp_path):
    """Version, price and holidays; gone again, that too."""
    added = catalog_told(tmp_path, "", OWN)
    removed = catalog_told(tmp_path, OWN, "")

    assert [(action, subject) for action, subject, _, _ in added] == [
        ("catalog_changed", "holidays 2027"),
        ("price_changed", "price my-r1-usd"),
        ("catalog_changed", "version my-r1"),
    ]
    assert {what for _, _, what, _ in added} == {"added"}
    assert [(subject, what) for _, subject, what, _ in removed] == [(one[1], "removed") for one in added]


def test_another_review_of_a_price_is_no_other_price(tmp_path):
    """A catalog change: it costs nobody anything."""
    later = OWN.replace("review_by = 2027-11-01\n\n[holidays]", "review_by = 2027-12-01\n\n[holidays]")
    ((action, subject, _, changed),) = catalog_told(tmp_path, OWN, later)

    assert (action, subject) == ("catalog_changed", "price my-r1-usd")
    assert changed == {"review_by": ["2027-11-01", "2027-12-01"]}


def test_every_row_of_the_shipped_catalog_has_a_name_of_its_own():
    """Else two rows would be one, and a change of the other not be seen."""
    catalog = catalog_with("")
    facts = catalog_facts(catalog)

    assert len(facts) == len(catalog.rows) + len(catalog.holidays)
    assert not [subject for subject in facts if subject.endswith("'")]


def change(**changes):
    fields = {"kind": "revision", "upstream": "default", "model": "m", "before": "V", "after": "V+r2"}
    return Change(**{**fields, "fingerprint": "fp_2", "at_s": 1000.0, **changes})


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (change(at_s=2000.0, model="n", before="V+r9"), True),
        (change(fingerprint="fp_3"), False),
        (change(after="V+r3"), False),
        (change(upstream="azure"), False),
    ],
)
def test_a_change_noted_again_by_a_redis_that_went_back_is_the_same(other, same):
    """Its instant and the name it was seen under may differ then."""
    assert (version_identity(version_note(change())) == version_identity(version_note(other))) is same
