import pytest

from proxy.metering.templates import NEWEST, template_of


@pytest.mark.parametrize(
    ("version", "family"),
    [
        ("DeepSeek-V2.5", "deepseek-v2"),
        ("DeepSeek-V3", "deepseek-v3"),
        ("DeepSeek-V3-0324", "deepseek-v3"),
        ("DeepSeek-V3.1-Terminus", "deepseek-v3.1"),
        ("DeepSeek-V3.2-Exp", "deepseek-v3.2"),
        ("DeepSeek-R1-0528", "deepseek-r1"),
        ("deepseek-r1-distill-llama-70b", "deepseek-r1"),
        ("DeepSeek-V4-Pro-0813", "deepseek-v4"),
        ("DeepSeek-V4.1-Flash-1017", "deepseek-v4.1"),
    ],
)
def test_a_version_has_the_template_of_its_family(version, family):
    """The longest family its name begins with, in any case."""
    assert template_of(version).family == family


@pytest.mark.parametrize("version", ["", "unknown", "deepseek-flash", "some-model"])
def test_an_unknown_version_is_taken_for_the_newest(version):
    """A guess that is labelled as one, and corrected by what is reported."""
    assert template_of(version) is NEWEST
