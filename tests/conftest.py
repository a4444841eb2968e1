"""What all tests share: property tests that give the same answer on every run, however busy the machine is."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
