"""Answers that nobody heard.

A signal ends the wait for an answer at any moment, also when the call was carried out already. With SA_RESTART the
kernel makes the call again; without, the program gets EINTR, and most make it again themselves. Either would find the
socket bound, connecting or connected already, or send the same data twice. So the answer is kept for the thread's next
call, if that comes soon and is the same.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from usernet.netd.supervisor.call import Call

SOON: Final = 1.0
"""Seconds in which a call counts as the same."""
KEPT: Final = 256

_Key = tuple[int, int, tuple[int, ...]]


@final
class Missed:
    """Those answers, by thread, number of the call and arguments. some: whether there are any."""

    def __init__(self) -> None:
        self._answers: OrderedDict[_Key, tuple[bytes, int, int, float]] = OrderedDict()
        self.some: bool = False

    def add(self, call: Call, what: bytes, value: int, code: int) -> None:
        """what: content that must be the same, too. value, code: the result, or the errno."""
        self._answers[call.tid, call.nr, call.args] = (what, value, code, time.monotonic() + SOON)
        if len(self._answers) > KEPT:
            self._answers.popitem(last=False)
        self.some = True

    def take(self, call: Call, what: bytes) -> int | None:
        """The answer to the same call, None where there is none. Raises OSError where it was an errno."""
        found = self._answers.pop((call.tid, call.nr, call.args), None)
        self.some = bool(self._answers)
        if found is None:
            return None
        content, value, code, until = found
        if content != what or time.monotonic() > until:
            return None
        if code:
            raise OSError(code, os.strerror(code))
        return value
