"""What every command does when standard output takes no more: an exit code, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = {"nydusify": "nydusify.cli", "nydus-fs": "fs.cli", "lazyrun": "runner.cli"}


def ended(module: str, stdout: int) -> tuple[int, str]:
    program = f"import sys; from {module} import main; sys.exit(main(['--help']))"
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_left(name: str) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        assert reader.stdin
        assert ended(COMMANDS[name], reader.stdin.fileno()) == (141, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str) -> None:
    with open("/dev/full", "w") as full:
        code, said = ended(COMMANDS[name], full.fileno())
    assert (code, said) == (8, f"{name}: standard output: No space left on device\n")
