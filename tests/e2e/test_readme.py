"""The commands in the README do what the README says, run as they stand there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, programs_missing
from tests.parts.registry import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.overlay,
    pytest.mark.registry,
    pytest.mark.skipif(bool(programs_missing("mmdebstrap")), reason="mmdebstrap not installed"),
]


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.M | re.S)


def test_commands_work_as_they_stand(tmp_path: Path) -> None:
    """Only the places differ: a directory for /tmp, a free port, a store of the test's own."""
    port = free_port()
    script = "set -eu\n" + "\n".join(shell_blocks())
    # What starts a server returns before the server listens; at a keyboard nobody sees that.
    script = script.replace("2>&1 &\n", f"2>&1 &\n{_wait_for(port)}\n")
    script = script.replace("kill %1", "kill $!").replace("localhost:5000", f"localhost:{port}")
    script = script.replace("127.0.0.1:5000", f"127.0.0.1:{port}").replace("/tmp/", f"{tmp_path}/")
    assert script.count("lazyrun run") >= 3
    done = subprocess.run(
        ["env", f"LAZYRUN_ROOT={tmp_path / 'root'}", "bash", "-c", script],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hello from a container that is not here yet") == 3
    assert done.stdout.count("goodbye from a container that is not here yet") == 1
    assert "settings.yaml" in done.stdout.splitlines()
    assert f"{tmp_path}/mnt  oci:{tmp_path}/images:nydus" in done.stdout


def _wait_for(port: int) -> str:
    return f"for i in $(seq 1200); do (: </dev/tcp/127.0.0.1/{port}) 2>&- && break; sleep 0.1; done"
