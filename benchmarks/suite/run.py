"""One run: from an empty place to a program that is ready, or to a tree that was read through.

Every moment is in seconds since the first command was given.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.images.recipe import Run
from benchmarks.measure import drop_caches
from benchmarks.services import Traffic
from benchmarks.suite.account import Account
from benchmarks.suite.modes import Mode, Plan, Step
from benchmarks.suite.networks import Reached
from benchmarks.suite.subject import Place
from nydusify.startup.readiness import Exit, Line, NotReadyError, Program, Ready

_READY_SECONDS = 900.0
_END_SECONDS = 5.0
_SETTLE_SECONDS = 0.2
_POLL_SECONDS = 0.005
#: Daemons are left alone until they use less than this share of a processor, or so long.
_IDLE_SHARE = 0.02
_IDLE_SECONDS = 5.0


class RunError(RuntimeError):
    """A run that came to nothing, with what its programs said."""


class Usage(NamedTuple):
    """What was fetched, by the registry's log and by the interface, and used, up to a moment."""

    fetched_bytes: int
    requests: int
    wire_bytes: int
    cpu_seconds: float
    peak_memory: int


class Meter:
    """Counts from when it is made."""

    def __init__(self, reached: Reached, account: Account) -> None:
        self._reached, self._account = reached, account
        self._traffic = reached.server.traffic()
        self._wire = reached.wire_bytes()
        self._cpu = account.cpu_seconds()
        self._began, self._start = time.time(), time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def since(self, moment: float) -> float:
        """A moment of CLOCK_MONOTONIC as seconds since the start."""
        return moment - self._start

    def resolved(self) -> float | None:
        """When the image's manifest was first answered, by the registry's clock, which is ours."""
        moment = self._reached.server.answered("/manifests/", self._began)
        return None if moment is None else moment - self._began

    def usage(self) -> Usage:
        wire = self._reached.wire_bytes() - self._wire
        traffic: Traffic = self._reached.server.traffic().since(self._traffic)
        cpu = self._account.cpu_seconds() - self._cpu
        return Usage(*traffic, wire, round(cpu, 4), self._account.peak_memory())


@dataclass
class Result:
    """`seconds` are moments by name; `ready` and `end` what had been used by then."""

    seconds: dict[str, float] = field(default_factory=dict)
    ready: Usage | None = None
    end: Usage | None = None

    def fields(self) -> dict[str, Any]:
        usage = {"at_ready": self.ready, "at_end": self.end}
        return {
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            **{name: value._asdict() for name, value in usage.items() if value},
        }


def settle(account: Account) -> None:
    """Let daemons that were just started come to rest, and empty the page cache."""
    deadline = time.monotonic() + _IDLE_SECONDS
    used = account.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(_SETTLE_SECONDS)
        before, used = used, account.cpu_seconds()
        if used - before < _SETTLE_SECONDS * _IDLE_SHARE:
            break
    drop_caches()


def start_once(mode: Mode, place: Place, reached: Reached) -> Result:
    """Start the image until it is ready, and end it."""
    with mode.at(place) as plan:
        if mode.again:
            _start(plan, place, reached)
        else:
            settle(place.account)
        return _start(plan, place, reached)


def _start(plan: Plan, place: Place, reached: Reached) -> Result:
    result = Result()
    meter = Meter(reached, place.account)
    for step in (*plan.pull, *plan.create):
        _take_step(step, place.account, meter, result)
    _run_program(plan, place, meter, result)
    if plan.timings:
        moments = json.loads(plan.timings.read_text())
        result.seconds |= {name: meter.since(moment) for name, moment in moments.items()}
    resolved = meter.resolved()
    if resolved is not None:
        one_way = place.network.round_trip / 2000
        result.seconds.setdefault("resolve", resolved + one_way)
    return result


def _run_program(plan: Plan, place: Place, meter: Meter, result: Result) -> None:
    run = place.subject.recipe.run
    begun = meter.seconds()
    command = place.account.wrap(plan.run)
    with Program(command, run.stdin, hold=True) as program:
        if run.kind == "stdin":
            end_input(program)
        try:
            outcome = program.wait_until(awaited(run), _READY_SECONDS)
            result.seconds["ready"] = begun + outcome.ready
            result.ready = meter.usage()
            if outcome.first_output is not None:
                result.seconds["first output"] = begun + outcome.first_output
            if isinstance(run.ready, Exit):
                ended = program.wait_until(run.ready, _READY_SECONDS)
                result.seconds["ended"] = begun + ended.ready
        except NotReadyError as error:
            raise RunError(str(error)) from None
        program.end(_END_SECONDS)
    time.sleep(_SETTLE_SECONDS)
    result.end = meter.usage()


def end_input(program: Program) -> None:
    """Close a script's pipe once the program runs: ctr loses an end that comes before."""
    while program.process.poll() is None and not container_runs():
        time.sleep(_POLL_SECONDS)
    assert program.process.stdin
    program.process.stdin.close()


def container_runs() -> bool:
    """Whether any process is in a PID namespace below ours, and no runtime any more."""
    own = os.readlink("/proc/self/ns/pid")
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                inside = os.readlink(f"/proc/{entry}/ns/pid") != own
                if inside and not Path("/proc", entry, "comm").read_text().startswith("runc"):
                    return True
    return False


def awaited(run: Run) -> Ready:
    """A program that ends is ready when it has said what it had to; its end is a moment of its own.

    So that removing the container counts for no tool and against none.
    """
    if isinstance(run.ready, Exit) and run.ready.pattern:
        return Line(run.ready.pattern)
    return run.ready


def read_once(mode: Mode, place: Place, reached: Reached) -> Result:
    """Make the image available and read its whole tree, as a backup would."""
    with mode.at(place) as plan:
        settle(place.account)
        result = Result()
        meter = _show(plan, place, reached, result)
        command = ["sh", "-c", 'tar -C "$0" -cf - . | cat >/dev/null', str(plan.tree)]
        _finish(command, place.account)
        result.seconds["read"] = meter.seconds()
        result.ready = result.end = meter.usage()
        return result


def read_scattered(mode: Mode, place: Place, reached: Reached) -> Result:
    """Read the tree's files in an order of no meaning; moments are shares of its bytes."""
    with mode.at(place) as plan:
        settle(place.account)
        result = Result()
        meter = _show(plan, place, reached, result)
        script = Path(__file__).with_name("scatter.py")
        told = _finish([sys.executable, "-IS", str(script), str(plan.tree)], place.account)
        for line in told.splitlines():
            share, moment = line.split()
            result.seconds[f"share {share}"] = meter.since(float(moment))
        result.ready = result.end = meter.usage()
        return result


def _show(plan: Plan, place: Place, reached: Reached, result: Result) -> Meter:
    meter = Meter(reached, place.account)
    for step in (*plan.pull, *plan.show):
        _take_step(step, place.account, meter, result)
    return meter


KINDS: dict[str, Callable[[Mode, Place, Reached], Result]] = {
    "start": start_once,
    "read": read_once,
    "scatter": read_scattered,
}


def _take_step(step: Step, account: Account, meter: Meter, result: Result) -> None:
    """Run a step to its end, noting when it said what its marks are looking for."""
    patterns = {name: re.compile(text.encode()) for name, text in step.marks.items()}
    with subprocess.Popen(
        account.wrap(step.command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        said = bytearray()
        while piece := os.read(process.stdout.fileno(), 1 << 16):
            said += piece
            for name in [name for name, pattern in patterns.items() if pattern.search(said)]:
                result.seconds[name] = meter.seconds()
                del patterns[name]
        code = process.wait()
    if code:
        raise RunError(f"{step.name} ended with {code}: {said[-1000:].decode(errors='replace')}")
    result.seconds[step.name] = meter.seconds()


def _finish(command: list[str], account: Account) -> str:
    done = subprocess.run(account.wrap(command), capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{command[0]} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout
