"""What only the inside of a container needs: a first process that reaps, a loopback that is up."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from runner import syscalls

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


def run(execute: Callable[[], NoReturn], reporter: int) -> NoReturn:
    """Be process 1 for the command that `execute` becomes: pass signals on, reap orphans.

    Ends as the command ends, by its exit code or 128 + its signal.
    """
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, everything)
    command = os.fork()
    if command == 0:
        os.setpgid(0, 0)
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        execute()
    os.close(reporter)
    syscalls.forbid_tracing()
    while True:
        number = signal.sigwait(everything)
        if number != signal.SIGCHLD:
            _pass_on(command, number)
        elif (code := _reap(command)) is not None:
            os._exit(code)


def _pass_on(command: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it ended this moment; SIGCHLD follows
        os.kill(command, number)


def _reap(command: int) -> int | None:
    """Reap every child that has ended; the exit code of `command` if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == command:
            code = exit_code(status)


def exit_code(status: int) -> int:
    """A wait status as a shell tells it: 128 + n for death by signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def raise_loopback() -> None:
    """Set `lo` of this network namespace up."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = b"lo".ljust(16, b"\0") + _IFF_UP_RUNNING.to_bytes(2, "little") + bytes(22)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
