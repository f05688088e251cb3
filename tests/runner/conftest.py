"""Containers on a small system: lazyrun as a command, and what it may not leave behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts.leaks import mount_points
from tests.parts.waiting import PATIENCE

LAZYRUN = Path(sys.executable).with_name("lazyrun")


@dataclass(frozen=True)
class Lazyrun:
    """`lazyrun` with a root directory of its own and the small system as the image."""

    root: Path
    image: Path

    def command(self, *words: str, image: str | None = None) -> list[str]:
        """`lazyrun run --rm` with options, "--" in `words` standing for the image."""
        split = words.index("--") if "--" in words else 0
        options, rest = words[:split], words[split + ("--" in words) :]
        chosen = [image] if image else ["--rootfs", str(self.image)]
        return [str(LAZYRUN), "run", "--rm", "--root", str(self.root), *options, *chosen, *rest]

    def run(
        self, *words: str, image: str | None = None, stdin: str | None = None, **more: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            self.command(*words, image=image),
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            **more,
        )

    def output(self, *words: str, image: str | None = None, stdin: str | None = None) -> str:
        """What a command that succeeds prints, and nothing else it has to say."""
        done = self.run(*words, image=image, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(LAZYRUN), words[0], "--root", str(self.root), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    def leftovers(self) -> list[str]:
        """Containers, snapshots and mounts below the root."""
        found = [str(path) for path in self.root.glob("containers/*")]
        found += [str(path) for path in self.root.glob("store/snapshots/*")]
        return found + [point for point in mount_points() if point.startswith(str(self.root))]


@pytest.fixture(scope="session")
def system(base_layer: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("system")
    directory.chmod(0o755)  # it becomes the containers' /
    subprocess.run(["tar", "-xzf", "-", "-C", str(directory)], input=base_layer, check=True)
    return directory


@pytest.fixture
def lazyrun(system: Path, tmp_path: Path) -> Iterator[Lazyrun]:
    """Nothing of what a test ran may be left when it is over."""
    command = Lazyrun(tmp_path / "lazyrun", system)
    yield command
    assert command.leftovers() == []
