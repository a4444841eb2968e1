"""Settings as one typed table: what there is (`sections`), where it comes from (`loading`), and addresses in it."""

from proxy.settings.addresses import are_one_place, is_loopback, split_address, without_credentials
from proxy.settings.loading import (
    ENVIRONMENT_PREFIX,
    SettingRow,
    load_settings,
    setting_rows,
    unknown_variables,
    variable_name,
)
from proxy.settings.named import AppSettings, BudgetSettings, FixedSettings, VersionSettings
from proxy.settings.sections import (
    DEFAULT_UPSTREAM,
    BalanceSettings,
    ConsoleSettings,
    GatewaySettings,
    JournalSettings,
    KeysSettings,
    LogSettings,
    MeteringSettings,
    NamedUpstreamSettings,
    PricingSettings,
    Settings,
    StoreSettings,
    UpstreamSettings,
)

__all__ = [
    "DEFAULT_UPSTREAM",
    "ENVIRONMENT_PREFIX",
    "AppSettings",
    "BalanceSettings",
    "BudgetSettings",
    "ConsoleSettings",
    "FixedSettings",
    "GatewaySettings",
    "JournalSettings",
    "KeysSettings",
    "LogSettings",
    "MeteringSettings",
    "NamedUpstreamSettings",
    "PricingSettings",
    "SettingRow",
    "Settings",
    "StoreSettings",
    "UpstreamSettings",
    "VersionSettings",
    "are_one_place",
    "is_loopback",
    "load_settings",
    "setting_rows",
    "split_address",
    "unknown_variables",
    "variable_name",
    "without_credentials",
]
