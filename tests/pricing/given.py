"""What the tests of pricing start from: instants as one writes them, the shipped catalog, and a small one to break."""

from datetime import datetime
from importlib.resources import files

from proxy.pricing.catalog import CATALOG_FILES

PRO, FLASH, FLASH_1017 = "DeepSeek-V4-Pro-0813", "DeepSeek-V4.1-Flash", "DeepSeek-V4.1-Flash-1017"

FACTS = """
source = "a page"
confidence = "high"
checked = 2026-01-01
review_by = 2026-12-31
"""

SMALL = {
    "names.toml": f"""
[[version]]
id = "A"
valid_from = 2026-01-01T00:00:00Z
{FACTS}
[[alias]]
names = ["a", "a-too"]
version = "A"
valid_from = 2026-01-01T00:00:00Z
{FACTS}
[[fingerprint]]
fingerprint = "fp_0123456789"
version = "A"
{FACTS}
""",
    "money.toml": f"""
[[rule]]
scheme = "s"
valid_from = 2026-02-01T00:00:00Z
peak_utc = ["22:00-02:00", "12:00-13:30"]
weekdays = ["mon"]
except_public_holidays = false
{FACTS}
[[price]]
id = "a-usd-flat"
versions = ["A"]
currency = "USD"
valid_from = 2026-01-01T00:00:00Z
valid_to = 2026-02-01T00:00:00Z
per_million = {{ input_cache_miss = "1", output = "2" }}
{FACTS}
[[price]]
id = "a-usd-peak"
versions = ["A"]
currency = "USD"
valid_from = 2026-02-01T00:00:00Z
per_million = {{ input_cache_hit = "0.1", input_cache_miss = "1", output = "2" }}
scheme = "s"
off_peak_factor = "0.5"
{FACTS}
""",
}


def at(text: str) -> float:
    """`2026-11-23T01:00:00Z` in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def shipped_texts() -> dict[str, str]:
    """The catalog's files as they are shipped."""
    return {name: files("proxy.pricing").joinpath(name).read_text() for name in CATALOG_FILES}
