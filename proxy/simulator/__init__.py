"""A DeepSeek API for demos and tests, and a ledger of what it billed. It shares no pricing or metering code with the proxy."""
