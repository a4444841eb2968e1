"""The examples in docs/ are used as they stand: a reader who copies one gets what the text says."""

import re
import shlex
import tomllib
from pathlib import Path

import msgspec

from proxy.catalog_files import catalog_with
from proxy.keys_cli import keys
from proxy.ledger.audit import Action
from proxy.pricing.budgets import budgets_of
from proxy.pricing.fixed import fixed_costs
from proxy.settings import BudgetSettings, KeysSettings, NamedUpstreamSettings, load_settings

DOCS = Path(__file__).parent.parent / "docs"
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
REFUSING = ("gateway/client_keys.py", "ledger/key_limits.py")
ELSEWHERE = {"upstream_unreachable", "invalid_request"}
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def example(name):
    (text,) = TOML.findall((DOCS / name).read_text("utf-8"))
    return text


def test_the_upstreams_of_the_docs_are_settings():
    """Two hosts, a managed gateway and three costs by the clock."""
    settings = load_settings(toml_text=example("upstreams.md"))

    assert [one.name for one in settings.upstreams] == ["own", "azure"]
    assert {one.upstream for one in fixed_costs(settings)} == {"own"}
    defaults = {field.name: field.default for field in msgspec.structs.fields(NamedUpstreamSettings)}
    assert (defaults["habits"], defaults["price_list"]) == ("other", "own")


def test_the_keys_of_the_docs_are_settings():
    """A name for a key in passthrough mode, and a managed gateway."""
    apart = [load_settings(toml_text=text) for text in TOML.findall((DOCS / "keys.md").read_text("utf-8"))]

    assert [one.gateway.mode for one in apart] == ["passthrough", "managed"]
    assert apart[0].apps_by_key() == {"key-a5deaab3db": "nightly"}
    assert apart[1].keys == KeysSettings()  # the defaults, as shown


def test_the_budgets_of_the_docs_are_settings():
    """One that shows, one that refuses, one for client keys alone; and every key there is stands in the page."""
    settings = load_settings(toml_text=example("budgets.md"))
    shown, rolling, keyed = budgets_of(settings)

    assert (shown.refuses, rolling.refuses, keyed.refuses) == (False, True, True)
    assert (rolling.rolling_s, keyed.for_keys, keyed.worst_case, keyed.allows_without_store) == (
        86_400,
        True,
        True,
        False,
    )
    text = (DOCS / "budgets.md").read_text("utf-8")
    assert [name for name in BudgetSettings.__struct_fields__ if name not in text] == []


def test_the_commands_of_the_docs_are_ours():
    """Every `keys` command that is shown has its options."""
    shown = re.findall(r"^    deepseek-meter (keys .*)$", (DOCS / "keys.md").read_text("utf-8"), re.MULTILINE)

    assert len(shown) == 3
    for line in shown:
        _, name, *rest = shlex.split(line)
        keys.commands[name].make_context(name, rest)


def test_the_codes_of_the_docs_are_those_there_are():
    """What a client may see when it is refused."""
    text = (DOCS / "keys.md").read_text("utf-8")
    source = "".join((DOCS.parent / "proxy" / name).read_text("utf-8") for name in ("errors.py", *REFUSING))
    table = text[text.index("| status | `code` |") :].split("\n\n")[0]
    for code in re.findall(r"`([a-z_]+)`", table)[1:]:
        assert f'"{code}"' in source, code
    for code in set(re.findall(r'"([a-z_]+_(?:key|allowed|open|reached|request|unavailable))"', source)):
        assert f"`{code}`" in table or code in ELSEWHERE, code


def test_the_catalog_of_the_docs_is_one(tmp_path):
    """With the version, the contract, another host's price and the holidays it shows."""
    (tmp_path / "own.toml").write_text(example("prices.md"))
    catalog = catalog_with(str(tmp_path / "own.toml"))

    assert "my-r1" in catalog.versions
    assert list(catalog.own_sheets) == ["azure"]
    assert 2027 in catalog.holidays
    assert tomllib.loads(example("prices.md"))["price"][0]["id"] == "contract-2026"


def test_every_action_of_the_audit_trail_is_explained():
    """Its table has all there are, and no other."""
    rows = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", (DOCS / "audit.md").read_text("utf-8"), re.MULTILINE)

    assert rows == [action.value for action in Action]


def test_links_between_the_docs_lead_somewhere():
    """README and docs name files that are there."""
    for page in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        for target in LINK.findall(page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
