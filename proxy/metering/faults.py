"""Why the metering of one exchange has to end. The relay of that exchange goes on untouched."""

from typing import Final

import msgspec

from proxy.usage import Missing

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are not what they should be; the last for ten thousand brackets."""


class MeteringFaultError(Exception):
    """What was seen cannot be metered; `missing` is the reason that goes into the record."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.value)
        self.missing = missing
