"""A time limit for each test of an answer, so that an endless loop costs seconds and names its unit."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Generator
from typing import Any

import pytest

from shared.testing.grading import TIME_LIMIT_S


def limit_each_test(config: pytest.Config) -> None:
    """Give pytest-timeout the limit, unless the command line names one."""
    if not config.pluginmanager.hasplugin("timeout"):
        return
    if config.option.timeout is None:
        config.option.timeout = TIME_LIMIT_S
    if not hasattr(signal, "SIGALRM"):
        config.pluginmanager.register(WithoutAlarm())


class WithoutAlarm:
    """Ends a late test where the system has no alarm signal (Windows); pytest-timeout would end the whole run there."""

    def __init__(self) -> None:
        self.passed_s = 0.0  # the limit that a test has passed
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background may ignore it

    @pytest.hookimpl(optionalhook=True)
    def pytest_timeout_set_timer(self, item: Any, settings: Any) -> bool:
        """Interrupt the test as Ctrl-C does, once its time is over."""

        def interrupt() -> None:
            self.passed_s = settings.timeout
            _thread.interrupt_main()

        timer = threading.Timer(settings.timeout, interrupt)
        item.cancel_timeout = timer.cancel
        timer.daemon = True
        timer.start()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """Turn that interruption into a failure, which says what pytest-timeout would."""
        try:
            return (yield)
        except KeyboardInterrupt as error:
            if not (limit_s := self.passed_s):
                raise  # it was Ctrl-C
            self.passed_s = 0.0
            late = pytest.fail.Exception(f"Timeout (>{limit_s}s) from pytest-timeout.")
            raise late.with_traceback(error.__traceback__) from None
