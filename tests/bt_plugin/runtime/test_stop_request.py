"""What SIGTERM and SIGUSR1 do to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bt_plugin.errors import PreemptedError
from bt_plugin.runtime.stop_request import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_process_lives(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.defer()
        assert not stop.is_made
        os.kill(os.getpid(), number)
        assert stop.is_made
        os.kill(os.getpid(), number)  # an echo of the first
    assert signal.getsignal(number) == before


def test_a_second_request_ends_the_process_at_once() -> None:
    program = """
import os, signal, time
from bt_plugin.runtime.stop_request import StopRequest
with StopRequest() as stop:
    stop.defer()
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.is_made, flush=True)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(60)
"""
    begun_s = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "True\n"
    assert result.returncode == 128 + signal.SIGUSR1
    assert time.monotonic() - begun_s < 30


def test_what_a_launcher_blocked_arrives() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # A rank's other threads have its mask; pytest's have not.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="before the first step"), StopRequest():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_first_step_ends_whatever_is_read(number: signal.Signals) -> None:
    begun_s = time.monotonic()
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, number)).start()
    with pytest.raises(PreemptedError, match="before the first step"), StopRequest():
        time.sleep(30)
    assert time.monotonic() - begun_s < 20


def test_in_another_thread_nothing_is_noted() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    made = []

    def enter() -> None:
        with StopRequest() as stop:
            made.append(stop.is_made)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert made == [False]
    assert [signal.getsignal(number) for number in SIGNALS] == before
