"""Which version answered in each recorded exchange, and how it is told: fingerprint, alias of the time, or the served name."""

import json
import re
from datetime import UTC, datetime

import pytest
from metering.given import PARTIAL, RECORDINGS, recorded_request, recordings

from proxy.metering.request import api_of
from proxy.pricing.versions import resolve
from proxy.usage import How

EXPECTED = {
    "anthropic-ds-nonstream-direct": ("DeepSeek-V4.1-Flash", How.ALIAS),
    "azure-ds-v4pro-stream-usage-in-empty-choices": ("DeepSeek-V4-Pro", How.ALIAS),
    "bedrock-r1-converse": ("unknown", How.UNKNOWN),
    "ds-chat-keepalive-stream-1": ("DeepSeek-V3-0324", How.FINGERPRINT),
    "ds-chat-prod0425fp8-tools-nonstream-cachehit": ("DeepSeek-V3-0324", How.FINGERPRINT),
    "ds-chat-prod0623-jsonmode": ("DeepSeek-V3-0324", How.FINGERPRINT),
    "ds-chat-prod0623-tools-stream-no-include-usage": ("DeepSeek-V3-0324", How.FINGERPRINT),
    "ds-chat-prod0718-fully-cached-odd": ("DeepSeek-V3-0324", How.ALIAS),
    "ds-chat-v2.5-2024-11-stream": ("DeepSeek-V2.5", How.FINGERPRINT),
    "ds-chat-v3-2025-01-nonstream-noptd": ("DeepSeek-V3", How.FINGERPRINT),
    "ds-chat-v3-2025-01-tools-cachehit": ("DeepSeek-V3", How.FINGERPRINT),
    "ds-chat-v3-2025-03-nonstream": ("DeepSeek-V3", How.FINGERPRINT),
    "ds-chat-v3.1-terminus-stream": ("DeepSeek-V3.1-Terminus", How.FINGERPRINT),
    "ds-reasoner-r1-0528-stream-no-include-usage": ("DeepSeek-R1-0528", How.FINGERPRINT),
    "ds-reasoner-v3.2-nonstream-leading-newlines": ("DeepSeek-V3.2", How.FINGERPRINT),
    "ds-reasoner-v3.2-stream": ("DeepSeek-V3.2", How.FINGERPRINT),
    "ds-responses-v4flash-nonstream": ("DeepSeek-V4-Flash-0731", How.ALIAS),
    "ds-responses-v4flash-stream": ("DeepSeek-V4-Flash-0731", How.ALIAS),
    "ds-v4-deferred-thinking-tools": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4alias-chat-tools-stream": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-v4alias-stream-opencode-include-usage-absent-null": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-v4alias-stream-opencode-no-include-usage": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "ds-v4flash-chat-stream-hexfp": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4flash-logprobs-stream": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4flash-thinking-disabled": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4flash-thinking-high": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4flash-thinking-length-stream": ("DeepSeek-V4-Flash-0731", How.FINGERPRINT),
    "ds-v4pro-toolchoice-forced": ("DeepSeek-V4-Pro-0813", How.ALIAS),
    "groq-r1-distill-stream-usage-in-x_groq": ("deepseek-r1-distill-llama-70b", How.SERVED_NAME),
    "hf-hyperbolic-r1-0528": ("DeepSeek-R1-0528", How.SERVED_NAME),
    "hf-together-r1-stream": ("DeepSeek-R1", How.SERVED_NAME),
    "openrouter-v3-0324-stream": ("deepseek-chat-v3-0324", How.SERVED_NAME),
    "openrouter-v3.1-terminus-object-reasoning-eq-completion": ("deepseek-v3.1-terminus", How.SERVED_NAME),
    "openrouter-v3.1-terminus-reasoning-stream": ("deepseek-v3.1-terminus", How.SERVED_NAME),
    "anthropic-ds-stream-head-real": ("DeepSeek-V4.1-Flash", How.ALIAS),
    "anthropic-ds-stream-trimmed": ("DeepSeek-V4.1-Flash", How.ALIAS),
    "fim-ds-v4flash-stream-cut": ("DeepSeek-V4-Flash", How.FINGERPRINT),
    "siliconflow-v3-stream-running-usage": ("DeepSeek-V3", How.SERVED_NAME),
}
"""Of other hosts the catalog knows nothing: the name they serve stands. Bedrock has it in the URL, which is not recorded here."""

UNDATED_S = datetime(2026, 9, 15, tzinfo=UTC).timestamp()
"""The Anthropic dialect has no date in its body; these are of August and September 2026."""

FOUND = [
    (name, meta, body, folder)
    for folder in (RECORDINGS, PARTIAL)
    for name, meta, body in recordings(folder)
    if meta["status"] == 200
]


@pytest.mark.parametrize(("name", "meta", "body", "folder"), FOUND, ids=[found[0] for found in FOUND])
def test_a_recorded_exchange_has_its_version(catalog, name, meta, body, folder):
    """As DEEPSEEK.md's table of aliases and fingerprints has it."""
    created = re.search(rb'"created(?:_at)?": ?(\d+)', body)
    request = recorded_request(name, folder)
    found = resolve(
        catalog,
        upstream="default",
        requested=json.loads(request).get("model", "") if request else "",
        served=meta["model"] if isinstance(meta["model"], str) else "",
        fingerprint=meta.get("system_fingerprint") or "",
        at_s=float(created[1]) if created else UNDATED_S,
        api=api_of("POST", meta["endpoint"]),
    )

    assert (found.version, found.how) == EXPECTED[name]


def test_every_recording_is_expected_to_be_something():
    """Says so where the folder is missing, because then the tests above are empty."""
    if not FOUND:
        pytest.skip("no recordings")

    assert {name for name, *_ in FOUND} == set(EXPECTED)
