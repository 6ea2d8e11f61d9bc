"""A SIGTERM, as a cluster sends it before it takes a machine away: a run leaves a checkpoint and ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

PREEMPTED = 75  # exit code: EX_TEMPFAIL, try again


class Preempted(BaseException):
    """A SIGTERM ended the run. Its last checkpoint has all that was done. As KeyboardInterrupt it is no Exception, so
    that nobody takes it for a failure that can be mended.
    """


def preempt(message: str) -> Callable:
    """A handler of SIGTERM that ends at once what is being done, with this message."""

    def handler(*_) -> None:
        raise Preempted(message)

    return handler


@contextlib.contextmanager
def on_sigterm(handler: Callable) -> Iterator[None]:
    """A SIGTERM calls the handler and ends nothing by itself, where signals can be handled: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
