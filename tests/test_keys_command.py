"""`keys`, in an installation that does not run: the embedded Redis is started for each command."""

import json

import pytest
from click.testing import CliRunner

from proxy.catalog_files import catalog_with
from proxy.cli import main
from proxy.errors import SettingsError
from proxy.gateway.client_keys import recognised
from proxy.gateway.keys import secret_name
from proxy.hash_secret import _make, hash_secret
from proxy.keys_check import key_lines, keys_to_look_at
from proxy.keys_command import known_keys, span_s
from proxy.ledger.audit import audit_key
from proxy.ledger.audit_file import AuditFile
from proxy.ledger.client_keys import NOTHING, ClientKey, Known
from proxy.ledger.key_files import KeyFiles
from proxy.settings import load_settings

NOWHERE = "redis://127.0.0.1:1/0"


def settings_in(folder, text=""):
    return load_settings(toml_text=text, flags={("store", "data_dir"): str(folder)})


@pytest.fixture
def keys(tmp_path):
    """Runs `keys ...` on a data dir of its own."""
    return lambda *arguments: CliRunner().invoke(main, ["keys", *arguments, "--data-dir", str(tmp_path)])


def listed(keys):
    return json.loads(keys("list", "--format", "json").stdout)


BUDGETS = """
[[budgets]]
name = "team-a"
limit = 5
for_keys = true
[[budgets]]
name = "all"
limit = 5
for_keys = true
[[budgets]]
name = "everybody"
limit = 5
"""


@pytest.fixture
def budgets(tmp_path_factory):
    """The options that name a settings file with two budgets for keys, and one that is not."""
    file = tmp_path_factory.mktemp("settings") / "meter.toml"
    file.write_text(BUDGETS)
    return ("--config", str(file))


def test_a_key_is_made_shown_once_listed_and_revoked(keys, budgets, tmp_path):
    """Before the first start. What is kept recognises it, and does not have it."""
    made = keys(
        "add", "--app", "team-a", "--models", "deepseek-flash,deepseek-v4-*", "--versions", "DeepSeek-V4-*",
        "--purposes", "validation,shadow", "--expires", "90d", "--rpm", "600", "--concurrent", "8",
        "--budgets", "team-a,all", "--note", "of the nightly run", *budgets,
    )  # fmt: skip
    text = made.stdout.strip()
    assert made.exit_code == 0, made.output
    assert "not shown again" in made.stderr
    assert 'mode = "managed"' in made.stderr
    (row,) = listed(keys)
    assert row["id"] == text.split("_")[1]
    assert row["last_four"] == text[-4:]
    assert (row["app"], row["state"], row["revoked"]) == ("team-a", "active", None)
    assert (row["models"], row["versions"]) == (["deepseek-flash", "deepseek-v4-*"], ["DeepSeek-V4-*"])
    assert (row["purposes"], row["budgets"]) == (["validation", "shadow"], ["team-a", "all"])
    assert (row["requests_per_minute"], row["concurrent"], row["note"]) == (600, 8, "of the nightly run")
    settings = settings_in(tmp_path)
    known, untold = known_keys(settings)
    assert untold == ""
    assert recognised([text], known, hash_secret(settings), known.keys[row["id"]].created_s).app == "team-a"
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert text[13:].encode() not in kept  # the secret
    assert row["id"].encode() in kept

    assert keys("revoke", row["id"]).exit_code == 0
    assert listed(keys)[0]["state"] == "revoked"
    assert "revoked" in keys("list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["add"], 2, "--app"),
        (["add", "--app", ""], 2, "names"),
        (["add", "--app", " a"], 2, "names"),
        (["add", "--app", "a", "--models", "m,,n"], 2, "names"),
        (["add", "--app", "a", "--expires", "soon"], 2, "90d"),
        (["add", "--app", "a", "--expires", "0d"], 2, "90d"),
        (["add", "--app", "a", "--purposes", "fun"], 2, "validation"),
        (["add", "--app", "a", "--rpm", "0"], 2, "rpm"),
        (["revoke", "no"], 2, "id of a key"),
        (["revoke", "00000000"], 1, "no key 00000000"),
        (["add", "--app", "a", "--redis", NOWHERE], 1, "nothing was changed"),
        (["list", "--redis", NOWHERE], 1, "data dir knows"),
    ],
)
def test_what_cannot_be_done_says_why(keys, tmp_path, arguments, code, word):
    """And leaves nothing behind."""
    (tmp_path / "journals").mkdir()
    result = keys(*arguments)

    assert result.exit_code == code
    assert word in result.output
    assert "Traceback" not in result.output
    assert listed(keys) == []


@pytest.mark.parametrize("option", ["--models", "--versions", "--purposes", "--budgets", "--expires"])
@pytest.mark.parametrize("nothing", ["", " "])
def test_an_option_with_nothing_in_it_makes_no_key(tmp_path, option, nothing):
    """It is a variable of a shell that is not set; a key without that limit is made by leaving the option out."""
    place = tmp_path / "data"
    result = CliRunner().invoke(main, ["keys", "add", "--app", "a", option, nothing, "--data-dir", str(place)])

    assert (result.exit_code, result.stdout) == (2, "")
    assert option in result.stderr
    assert "empty" in result.stderr
    assert not place.exists()


@pytest.mark.parametrize("name", ["team-b", "everybody", "team-a,team-b"])
def test_a_budget_that_would_not_hold_the_key_makes_no_key(tmp_path, budgets, name):
    """One that there is not, or that is not for keys: the key would work, without the limit."""
    place = tmp_path / "data"
    options = ["--app", "a", "--budgets", name, "--data-dir", str(place), *budgets]
    result = CliRunner().invoke(main, ["keys", "add", *options])

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"no [[budgets]] {name.removeprefix('team-a,')} with for_keys = true; expected: team-a, all" in result.stderr
    assert not place.exists()


@pytest.mark.parametrize("name", ["[/foo]", "[red]", ":smiley:"])
def test_a_key_of_any_name_is_listed_by_it(keys, name):
    """One that a terminal's library takes for a style made the list unusable for ever."""
    keys("add", "--app", name, "--note", f"of {name}")
    result = keys("list")

    assert result.exit_code == 0, result.output
    assert result.stdout.count(name) == 2


def test_without_budgets_for_keys_that_is_what_is_said(keys):
    result = keys("add", "--app", "a", "--budgets", "team-a")

    assert result.exit_code == 2
    assert "there is none at all" in result.stderr


def test_what_is_said_twice_is_kept_once(keys, budgets):
    """In the order in which it was said first."""
    said = ["--purposes", "shadow,validation,shadow", "--models", "m,m", "--versions", "v,w,v", "--budgets", "all,all"]
    made = keys("add", "--app", "a", *said, *budgets)
    (row,) = listed(keys)

    assert made.exit_code == 0, made.output
    assert (row["purposes"], row["models"], row["versions"]) == (["shadow", "validation"], ["m"], ["v", "w"])
    assert row["budgets"] == ["all"]


def test_what_was_done_is_in_the_audit_trail(keys, tmp_path):
    """Who made and who revoked a key, and what it opened; never the key, nor what recognises it."""
    text = keys("add", "--app", "team-a", "--rpm", "600").stdout.strip()
    key_id = text.removeprefix("dsm_")[:8]
    keys("revoke", key_id)
    trail = AuditFile(tmp_path, audit_key(hash_secret(settings_in(tmp_path))))
    entries = [entry for chain in trail.chains() for entry in trail.read(chain).entries]
    found = [(one.action, one.subject, one.detail) for one in entries]

    assert ("key_added", key_id, {"app": "team-a", "requests_per_minute": 600}) in found
    assert ("key_revoked", key_id, {}) in found
    assert text[-24:] not in "".join(path.read_text() for path in trail.folder.iterdir() if path.is_file())


def test_a_revocation_needs_no_redis(keys):
    """It is noted, says that it is not everywhere yet, and gets there by itself."""
    key_id = keys("add", "--app", "a").stdout.split("_")[1]
    result = keys("revoke", key_id, "--redis", NOWHERE)

    assert result.exit_code == 1
    assert "once Redis is back" in result.output
    assert listed(keys)[0]["state"] == "revoked"


@pytest.mark.parametrize("arguments", [["list"], ["list", "--format", "json"], ["revoke", "00000000"]])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_data_dir_without_an_installation_is_said_to_be_none(tmp_path, arguments, is_there):
    """A mistaken path is no place for a new installation, and an empty list would look like an answer."""
    place = tmp_path / "none"
    if is_there:
        place.mkdir()
    result = CliRunner().invoke(main, ["keys", *arguments, "--data-dir", str(place)])

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{place}: there is no installation; is it the right one?" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == (["none"] if is_there else [])


def test_the_first_key_says_where_it_made_a_data_dir(tmp_path, monkeypatch):
    """With its full path, once: a relative one counts from wherever the command was started."""
    monkeypatch.chdir(tmp_path)
    first, second = (CliRunner().invoke(main, ["keys", "add", "--app", "a", "--data-dir", "data"]) for _ in range(2))

    assert first.exit_code == second.exit_code == 0
    assert f"made a new data dir: {tmp_path / 'data'} " in first.stderr
    assert "new data dir" not in second.stderr


def test_keys_that_were_made_beside_another_redis_are_an_installation(tmp_path):
    """There are no journals then; what the data dir knows is shown all the same."""
    KeyFiles(tmp_path).note(Known({"aaaaaaaa": kept()}))
    result = CliRunner().invoke(main, ["keys", "list", "--data-dir", str(tmp_path)])

    assert result.exit_code == 0
    assert "aaaaaaaa" in result.stdout


def test_a_revocation_told_to_a_redis_alone_says_where_it_is_noted(tmp_path):
    """It is urgent, and goes on without a data dir; the one it makes is not to go unseen."""
    place = tmp_path / "data"
    result = CliRunner().invoke(main, ["keys", "revoke", "aaaaaaaa", "--redis", NOWHERE, "--data-dir", str(place)])

    assert "key aaaaaaaa is revoked" in result.stdout
    assert f"made a new data dir: {place} " in result.stderr


def test_listing_writes_nothing(tmp_path):
    """A look at another installation's Redis leaves no data dir behind."""
    CliRunner().invoke(main, ["keys", "list", "--redis", NOWHERE, "--data-dir", str(tmp_path / "none")])

    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000.0), ("12h", 43_200.0), (" 4W ", 2_419_200.0), ("5m", 300.0)]
)
def test_spans(text, seconds):
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "90", "-1d", "1.5d", "9999999d", "90 days"])
def test_what_is_no_span(text):
    with pytest.raises(SettingsError, match="90d"):
        span_s(text)


@pytest.mark.parametrize("name", ["lock", "client_keys/changes.log", "audit/lock"])
def test_a_link_laid_into_the_data_dir_is_one_line(keys, tmp_path, name):
    """Root runs a command in the service's folder: what lies there must not lead it to another file."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(victim)

    result = keys("add", "--app", "a")

    assert result.exit_code == 1
    assert f"{name.rpartition('/')[2]} is a symbolic link" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (victim.read_text(), victim.stat().st_uid) == ("mine", tmp_path.stat().st_uid)


def test_the_hash_secret_is_made_once_and_is_the_settings_first(tmp_path):
    """For the owner alone; a setting goes before it."""
    settings = settings_in(tmp_path / "data")
    made = hash_secret(settings)

    assert len(made) == 64
    _make(tmp_path / "data" / "key_hash_secret")  # another process that found none, a moment later
    assert hash_secret(settings) == made
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["key_hash_secret"]
    assert (tmp_path / "data" / "key_hash_secret").stat().st_mode & 0o777 == 0o600
    assert hash_secret(settings_in(tmp_path, '[gateway]\nkey_hash_secret = "shared"\n')) == b"shared"


def kept(key_id="aaaaaaaa", **changes):
    fields = {"id": key_id, "app": "a", "digest": "", "hashed_with": "ours", "last_four": "", "created_s": 1.0}
    return ClientKey(**{**fields, **changes})


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (NOTHING, ["no client key"]),
        (Known({"aaaaaaaa": kept()}, {"aaaaaaaa": 1.0}), ["no client key"]),
        (Known({"aaaaaaaa": kept()}), []),
        (Known({"aaaaaaaa": kept(hashed_with="theirs")}), ["key_hash_secret"]),
        (Known({"aaaaaaaa": kept(expires_s=100.0 + 86400)}), ["expires in 1.0 days"]),
        (Known({"aaaaaaaa": kept(expires_s=1e9)}), []),
        (Known({"aaaaaaaa": kept(versions=("V-*", "W"))}), ["versions W"]),
    ],
)
def test_check_looks_at_the_keys(known, words):
    """None that opens anything, one of another secret, one that ends soon, one for a version there is not."""
    lines = keys_to_look_at(known, "ours", ["V-1"], 100.0)

    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


def test_check_asks_the_installation(keys, tmp_path):
    """Nothing in passthrough mode; in managed mode what is there."""
    catalog = catalog_with("")
    managed = settings_in(tmp_path, '[gateway]\nmode = "managed"\n')
    assert key_lines(settings_in(tmp_path), catalog, 1.0) == []
    assert "no client key" in key_lines(managed, catalog, 1.0)[0]
    keys("add", "--app", "a", "--versions", "DeepSeek-V4-Pro-813")
    (line,) = key_lines(managed, catalog, 1.0)
    assert "DeepSeek-V4-Pro-813" in line
    other = settings_in(tmp_path, '[gateway]\nmode = "managed"\nkey_hash_secret = "another"\n')
    assert "key_hash_secret" in key_lines(other, catalog, 1.0)[0]
    assert secret_name(b"another") != secret_name(hash_secret(managed))


REFUSING = """[gateway]
mode = "managed"
[[budgets]]
name = "checks"
limit = 5
app = "team-*"
model = "deepseek-flash"
purpose = "validation"
action = "refuse"
"""


def way_out(settings):
    return [line for line in key_lines(settings, catalog_with(""), 1.0) if "[[budgets]] checks" in line]


def test_check_names_the_keys_that_leave_a_budget_by_their_purpose(keys, tmp_path):
    """Who may state another purpose is not held by a refusing budget of one; nor is anybody else's key in it."""
    made = {
        options: keys("add", "--app", *options.split()).stdout.split("_")[1]
        for options in (
            "team-a",
            "team-b --purposes validation",
            "team-c --purposes validation,shadow",
            "team-d --purposes shadow,production",
            "other",
        )
    }
    (line,) = way_out(settings_in(tmp_path, REFUSING))

    assert {options for options, key_id in made.items() if key_id in line} == {
        "team-a",
        "team-c --purposes validation,shadow",
    }
    assert way_out(settings_in(tmp_path, REFUSING.replace('"validation"', '"*"'))) == []
    assert way_out(settings_in(tmp_path, REFUSING.replace('"refuse"', '"alert"'))) == []


def test_check_says_whom_a_budget_of_a_purpose_holds_before_there_are_keys(tmp_path):
    """The first key is the one that has to be made in the right way."""
    (line,) = way_out(settings_in(tmp_path, REFUSING))

    assert "holds only for keys made with --purposes" in line


def test_a_budget_of_a_purpose_is_fine_with_keys_of_that_purpose(keys, tmp_path):
    """Nothing is left to look at."""
    keys("add", "--app", "team-a", "--purposes", "validation")

    assert way_out(settings_in(tmp_path, REFUSING)) == []


def test_check_names_settings_without_effect(tmp_path):
    """What is set for the mode that is not in force."""
    (tmp_path / "meter.toml").write_text('[gateway]\nopen_paths = ["/files*"]\n[keys]\non_store_down = "refuse"\n')
    result = CliRunner().invoke(
        main, ["check", "--config", str(tmp_path / "meter.toml"), "--data-dir", str(tmp_path / "data")]
    )

    assert "open_paths has no effect" in result.output
    assert "[keys] has no effect" in result.output
