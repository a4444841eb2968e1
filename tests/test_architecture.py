"""The map of the code, held: which way imports point, who owns which library, and how large a room may get."""

import ast
from pathlib import Path

import pytest

PROXY = Path(__file__).parent.parent / "proxy"
MODULES = sorted(PROXY.rglob("*.py"))

FACTS = {"usage", "errors", "settings"}
COMPOSITION = {
    "__main__", "cli", "supervisor", "child", "catalog_files", "gateway_process", "console_process", "demo_process",
    "price_command", "verify_command", "vocabulary_files", "upstreams", "installation", "check_command",
    "report_cli", "report_command", "report_table",
    "client_keys", "command_options", "hash_secret", "keys_check", "keys_cli", "keys_command",
    "logs", "tls", "budget_admission",
    "audit_command", "audit_facts", "audit_trail",
}  # fmt: skip
MAY_IMPORT = {
    "usage": set(),
    "errors": set(),
    "settings": {"errors"},
    "metering": FACTS,
    "pricing": FACTS,
    "ledger": FACTS | {"pricing"},
    "gateway": FACTS | {"metering", "pricing", "ledger", "tls"},
    "reports": FACTS | {"pricing", "ledger"},
    "console": FACTS | {"pricing", "ledger", "child", "reports", "tls"},
    "simulator": {"usage", "errors"},
    "child": FACTS | {"logs"},
    "catalog_files": FACTS | {"pricing"},
}
OWNERS = {
    "redis": {"ledger.store", "ledger.redis_clients", "ledger.embedded"},
    "prometheus_client": {"console.metrics"},
    "chinese_calendar": {"pricing.calendar"},
    "tiktoken": {"metering.tokenizer"},
    "click": {"cli", "command_options", "keys_cli", "report_cli"},
    "rich": {"command_options", "report_table"},
    "uvloop": {"gateway_process", "console_process", "demo_process"},
    "aiohttp": {
        "gateway.connection",
        "gateway.incoming",
        "gateway.relay",
        "gateway.responding",
        "gateway.upstream",
        "gateway_process",
        "console_process",
        "console.app",
        "console.balance",
        "simulator",
    },
    "yarl": {"gateway.upstream"},
    "holidays": set(),
    "openai": set(),
}
PURE = {"metering", "pricing", "reports", "usage", "errors", "settings"}
NOT_PURE = {"asyncio", "socket", "time", "os", "logging", "structlog", "random", "secrets", "threading", "subprocess"}
LONGEST_MODULE = 400


def _name(path: Path) -> str:
    parts = path.relative_to(PROXY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_one_way(path):
    """A module imports of ours only what stands below it."""
    floor = _name(path).partition(".")[0]
    allowed = MAY_IMPORT.get(floor)
    if allowed is None:
        assert floor in COMPOSITION | {""}
        return
    ours = {name.split(".")[1] for name in _imports(path) if name.startswith("proxy.") and name.count(".") >= 1}

    assert ours <= allowed | {floor}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_each_library_has_its_owners(path):
    """An outside library is imported only where it is owned, so that it can be exchanged."""
    name = _name(path)
    for library in {imported.partition(".")[0] for imported in _imports(path)} & OWNERS.keys():
        owners = OWNERS[library]

        assert name in owners or name.partition(".")[0] in owners, f"{name} imports {library}"


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path).partition(".")[0] in PURE], ids=_name)
def test_pure_modules_do_no_io_and_have_no_clock(path):
    """Time, sockets, files and randomness come in as arguments."""
    imported = {name.partition(".")[0] for name in _imports(path)}

    assert not imported & NOT_PURE
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "open"]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_keeps_state(path):
    """There is no `global` anywhere: whoever owns state is an object that was handed in."""
    assert not [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_stays_readable_in_one_sitting(path):
    """A module has one subject; past this size it has two."""
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_says_what_lives_there(path):
    """The head of a file says what it is for."""
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
