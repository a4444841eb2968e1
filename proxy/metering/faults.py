"""Why the metering of one exchange has to end. The relay of that exchange goes on untouched."""

from proxy.usage import Missing


class MeteringFaultError(Exception):
    """What was seen cannot be metered; `missing` is the reason that goes into the record."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.value)
        self.missing = missing
