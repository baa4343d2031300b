"""What holds for every test: nothing is left behind, and a property test gives the same verdict each time.

Fixtures that a single floor needs are in that floor's own `conftest.py`; helpers to import are in `tests/support/`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.netd.supervisor.running import _supervised as _supervised
from tests.support import leaks, netns
from tests.support.unprivileged import _unprivileged as _unprivileged

# A machine under load must not fail a test, so examples have no deadline. `make test` tries the same examples each
# time; `make test-all` (--hypothesis-profile=long) looks for new ones, and prints how to repeat one that fails.
settings.register_profile("usernet", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("usernet")

# A shell's background commands, and those of nohup(1), ignore these; the tests of signals need those that come.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """Fail a test that leaves a thread, a descriptor or a child process behind.

    Set up before a test's other fixtures and so torn down after them. What a wider fixture (class, module, session)
    holds was there before, and counts for none of its tests.
    """
    before = leaks.take()
    yield
    if lines := leaks.left_over(before):
        pytest.fail("the test left behind:\n  " + "\n  ".join(lines), pytrace=False)


@pytest.fixture(scope="session")
def root_netns() -> None:
    """Skip where network namespaces can't be made; `netns.requires_root_netns` asks for it."""
    if reason := netns.why_no_netns():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def tun() -> None:
    """Skip where TUN/TAP devices can't be made; `netns.requires_tun` asks for it."""
    if reason := netns.why_no_tun():
        pytest.skip(reason)
