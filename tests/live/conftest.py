"""The option of `make e2e`: how long the rolling deploy is watched."""


def pytest_addoption(parser):
    parser.addoption("--rolling-minutes", type=float, default=2.0, help="length of the watched rolling deploy")
