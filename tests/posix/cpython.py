"""CPython's own test_socket on `usernet.socket`, in this process:

    python -m tests.posix.cpython [--descriptors] [TEST ...]

`DIFFERENCES` says of each test that does not pass here, though it does on the host's sockets, why that is so.
"""

from __future__ import annotations

import argparse
import json
import sys
import unittest
from collections.abc import Iterator
from typing import Any

# By `Class.test`, or `Class.*` for all of one.
DIFFERENCES = {
    "GeneralModuleTests.testRefCountGetNameInfo": "counts references that a traceback through Python code holds",
    "GeneralModuleTests.test_SocketType_is_socketobject": "asks for the host's own `_socket.socket`",
    "GeneralModuleTests.test_socket_close": "`close(fd)` leaves to a socket object what is its own: EBADF",
    "GeneralModuleTests.test_unknown_socket_family_repr": "a stack's socket is of the family that it is of",
}

# Besides, where sockets are not descriptors: what `fileno()` gives only tells of readiness.
_SHARED = "objects made of one descriptor hold the socket one by one, and none misses it when another closes"
_NONBLOCKING = "the descriptor that tells of readiness never blocks, whatever the socket does"
WITHOUT_DESCRIPTORS = {
    "GeneralModuleTests.testCloseException": _SHARED,
    "TestExceptions.test_setblocking_invalidfd": _SHARED,
    "NonBlockingTCPTests.testSetBlocking": _NONBLOCKING,
    "NonBlockingTCPTests.testSetBlocking_overflow": _NONBLOCKING,
    "NonblockConstantTest.test_SOCK_NONBLOCK": _NONBLOCKING,
}


def reason(name: str, descriptors: bool) -> str | None:
    """Why the test `Class.test` is not to pass; None where it is."""
    known = DIFFERENCES if descriptors else {**DIFFERENCES, **WITHOUT_DESCRIPTORS}
    return known.get(name) or known.get(name.partition(".")[0] + ".*")


def _tests(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _tests(test)
        else:
            yield test


def _name(test: Any) -> str:
    return ".".join(test.id().split(".")[-2:])


def main() -> None:
    """Run the tests, and print as JSON how many passed, were skipped and did not pass, these by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", action="store_true", help="with sockets that are real descriptors")
    parser.add_argument("tests", nargs="*", help="classes, or Class.test; all without")
    arguments = parser.parse_args()

    import usernet

    with usernet.Stack("host") as stack:
        usernet.use(stack, descriptors=arguments.descriptors)
        import usernet.socket

        sys.modules["socket"] = usernet.socket
        from test import test_socket  # type: ignore[import-not-found,unused-ignore]

        loader = unittest.defaultTestLoader
        if arguments.tests:
            suite = loader.loadTestsFromNames(arguments.tests, test_socket)
        else:
            suite = loader.loadTestsFromModule(test_socket)
        # VM sockets are the host's, and their tests hang on hosts with none to talk to.
        suite = unittest.TestSuite([test for test in _tests(suite) if "VSOCK" not in test.id()])
        test_socket.setUpModule()
        result = unittest.TextTestRunner(verbosity=2, stream=sys.stderr).run(suite)
        unittest.doModuleCleanups()
    bad = sorted({_name(test) for test, _ in result.failures + result.errors})
    skipped = len(result.skipped)
    print(json.dumps({"passed": result.testsRun - skipped - len(bad), "skipped": skipped, "bad": bad}))


if __name__ == "__main__":
    main()
