"""Pure: bytes in, facts out. No I/O, no clock, no `async`, no logging here."""
