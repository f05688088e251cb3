"""When a program counts as ready."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from nydusify.startup.readiness import Elapsed, Exit, Line, NotReadyError, Port, Program, Ready
from tests.parts.waiting import PATIENCE

_SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
connections = [listener.accept()[0] for _ in range(2)]
connections[1].recv(100)
connections[1].sendall(b"+PONG")
sys.stdin.read()
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


@pytest.mark.parametrize(
    ("ready", "code"),
    [
        (Exit("^done$"), "print('done')"),
        (Line("half way$"), "print('half way', flush=True); input()"),
        (Line("oh"), "import sys; print('oh', file=sys.stderr, flush=True); input()"),
        (Elapsed(0.2), "input()"),
    ],
)
def test_ready(ready: Ready, code: str) -> None:
    with Program(python(code), hold=True) as program:
        outcome = program.wait_until(ready, PATIENCE)
    assert 0 < outcome.ready < PATIENCE
    if not isinstance(ready, Elapsed):
        assert outcome.first_output is not None
        assert outcome.first_output <= outcome.ready


def test_port_is_asked_until_it_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    with Program(python(_SERVER, str(number)), hold=True) as program:
        program.wait_until(Port(number), PATIENCE)
        program.wait_until(Port(number, b"PING\r\n", b"+PONG"), PATIENCE)


def test_script_comes_from_standard_input() -> None:
    with Program([sys.executable, "-"], b"print(6 * 7)\n") as program:
        assert program.wait_until(Exit("^42$"), PATIENCE).output == "42\n"


@pytest.mark.parametrize(
    ("ready", "code", "text"),
    [
        (Exit(), "raise SystemExit(3)", "ended with 3 before it was ready"),
        (Exit("good"), "print('bad')", "ended with 0 before it was ready; it said: bad"),
        (Line("x"), "print('y')", "ended with 0 before it was ready; it said: y"),
        (Line("x"), "import time; time.sleep(60)", "not ready after 0.5 s"),
    ],
)
def test_not_ready(ready: Ready, code: str, text: str) -> None:
    with (
        Program(python(code)) as program,
        pytest.raises(NotReadyError, match=f"^{text}"),
    ):
        program.wait_until(ready, 0.5 if "time" in code else PATIENCE)


def test_a_program_that_will_not_end_is_killed() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    program = Program(python(code + "while True: time.sleep(1)"), hold=True)
    program.wait_until(Line("1"), PATIENCE)
    assert program.end(patience=0.2) == -signal.SIGKILL
