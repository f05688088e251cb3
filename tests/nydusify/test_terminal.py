"""What a conversion shows on a terminal: a bar that goes, and a table or a line that stays."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.nydusify.test_convert import publish, stack
from tests.parts.waiting import PATIENCE

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def on_terminal(*arguments: str, columns: int = 100) -> tuple[int, str]:
    """Exit code and output of `nydusify` with a terminal as its standard output and error."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "nydusify.cli", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 1 << 16):
            shown += piece
    except OSError:  # EIO: the last writer is gone
        pass
    os.close(master)
    return process.wait(PATIENCE), shown.decode()


def screen(output: str) -> list[str]:
    """The lines that a terminal shows at the end; it is wide enough that none is broken."""
    lines, row, column = [""], 0, 0
    for text in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", output):
        control = _CONTROL.fullmatch(text)
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control and control[2] == "A":
            row -= int(control[1] or 1)
        elif control and control[2] == "K":
            assert control[1] == "2"
            lines[row] = ""
        elif control:
            assert control[2] in "mhl", f"not known here: {text!r}"
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
    return lines


@pytest.mark.parametrize("columns", [100, 200])
def test_the_table_stands_alone(tmp_path: Path, columns: int) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    target = f"oci:{tmp_path}/out:b"
    arguments = ("convert", "--source", f"oci:{tmp_path}/in:a", "--target", target)
    code, output = on_terminal(*arguments, columns=columns)
    assert code == 0
    assert "layer 2 of 4" in output
    assert "pushing bootstrap" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # the cursor is back
    shown = screen(output)
    assert shown[0].split() == ["layer", "source", "blob", "chunks", "shared", "seconds"]
    assert [line.split()[0] for line in shown[5:8]] == ["bootstrap", "not", "total"]
    assert shown[6].startswith("not stored again ")
    assert shown[8].startswith(f"{target}@sha256:")
    assert shown[9:] == [""]


def test_a_failure_stands_alone(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", [*stack(), stack()[0][:5000]])
    code, output = on_terminal("convert", "--source", f"oci:{tmp_path}/in:a",
                               "--target", f"oci:{tmp_path}/out:b", columns=400)  # fmt: skip
    assert code == 3
    assert "layer 2 of 5" in output
    (line, rest) = screen(output)
    assert line.startswith("nydusify: oci:")
    assert rest == ""
