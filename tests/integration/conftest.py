import resource
import signal

import pytest

from harness import SANITIZER, TEST_SECONDS, Broker

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_configure(config):
    config.addinivalue_line("markers", "release_only: bounds memory or CPU of the release build")


def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if SANITIZER and item.get_closest_marker("release_only")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    cases = [n for report in reports for name, n in report.user_properties if name == "cases"]
    if cases:
        terminalreporter.write_line(f"faults: {sum(cases)} cases in {len(cases)} sweeps")


@pytest.fixture(autouse=True)
def bounded():
    """No test hangs, whatever it waits for."""

    def over(*_):
        pytest.fail(f"the test took more than {TEST_SECONDS:g} s")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture
def start(tmp_path):
    """Starts brokers; each one stops cleanly, with counters that balance, when the test is over."""
    brokers = []

    def start(**config):
        directory = tmp_path / f"broker-{len(brokers)}"
        directory.mkdir()
        brokers.append(Broker(directory, **config))
        return brokers[-1]

    yield start
    errors = []
    for broker in brokers:
        try:
            broker.close()
        except BaseException as error:  # the others must be ended too
            errors.append(error)
    if errors:
        raise errors[0]
