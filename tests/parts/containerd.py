"""A containerd of our own, stopped when the caller is done with it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts.waiting import PATIENCE, eventually


@dataclass(frozen=True)
class Containerd:
    address: Path

    def ctr(self, *words: object, program: str = "ctr") -> str:
        """What `ctr` (or its kin) prints on our containerd; it must succeed."""
        command = [program, "-a", str(self.address), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def start_containerd(root: Path) -> Iterator[Containerd]:
    """Run containerd, without CRI, with its data and sockets in `root` (a short path)."""
    config = root / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{root}/sock"\n[ttrpc]\naddress = "{root}/ttrpc"\n'
    )
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    try:
        eventually(lambda: (root / "sock").exists() or daemon.poll() is not None, "it listens")
        assert daemon.poll() is None, (root / "log").read_text()
        yield Containerd(root / "sock")
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
