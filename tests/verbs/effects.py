"""How an example of a help text is run, and what can be claimed of what it did."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fs.daemon.state import lives
from fs.format.versions import open_bootstrap
from fs.registry.platform import parse_platform
from fs.registry.store import open_reader
from nydusify.images.opened import ImagePlace, open_image
from tests.parts.leaks import mount_points
from tests.parts.registry import Registry
from tests.parts.terminal import type_at_prompt
from tests.parts.waiting import PATIENCE
from tests.verbs.scenes import Scenery


class Run(NamedTuple):
    """What an example printed, and where it ran."""

    output: str
    place: Path
    scenery: Scenery

    @property
    def registry(self) -> Registry:
        return self.scenery.registry


Effect = Callable[[Run], object]


def image(place: str, *, nydus: bool = True, platform: str | None = None) -> Effect:
    """It can be had under this name; HOST is the registry."""

    def holds(run: Run) -> None:
        name = place.replace("HOST", run.registry.host).replace("oci:", f"oci:{run.place}/")
        reader = open_reader(name.replace("archive:", f"archive:{run.place}/"))
        try:
            wanted = parse_platform(platform) if platform else None
            assert reader.resolve(wanted, nydus=nydus).manifest.layers
        finally:
            reader.close()

    return holds


def bootstrap(pattern: str) -> Effect:
    def holds(run: Run) -> None:
        (path,) = run.place.glob(pattern)
        assert open_bootstrap(path.read_bytes(), str(path)).inode_count > 1

    return holds


def files(pattern: str, count: int) -> Effect:
    """So many match, and none is empty."""

    def holds(run: Run) -> None:
        found = list(run.place.glob(pattern))
        assert len(found) == count
        assert all(path.stat().st_size for path in found)

    return holds


def blobs_of(layout: str, directory: str) -> Effect:
    """The directory has the blobs of the image in a layout, and nothing else."""

    def holds(run: Run) -> None:
        with (
            tempfile.TemporaryDirectory() as work,
            open_image(ImagePlace(f"oci:{run.place}/{layout}"), Path(work)) as opened,
        ):
            named = {record.blob_id for record in opened.bootstrap.blobs}
        assert {path.name for path in (run.place / directory).iterdir()} == named != set()

    return holds


def says(*words: str) -> Effect:
    def holds(run: Run) -> None:
        assert [word for word in words if word not in run.output] == []

    return holds


def lacks(word: str) -> Effect:
    def holds(run: Run) -> None:
        assert word not in run.output

    return holds


def answers(*keys: str) -> Effect:
    """Every line is JSON, what comes first in them has these keys."""

    def holds(run: Run) -> None:
        lines: list[Any] = [json.loads(line) for line in run.output.splitlines()]
        assert lines
        first = lines[0][0] if keys and isinstance(lines[0], list) else lines[0]
        assert [key for key in keys if key not in first] == []

    return holds


def tagged(repository: str, tag: str) -> Effect:
    """The registry has it, and it is no image."""
    path = f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
    return lambda run: (run.registry.storage / path).read_bytes()


def tree(path: str) -> Effect:
    return lambda run: (run.place / path).read_bytes()


def tar(path: str, name: str) -> Effect:
    def holds(run: Run) -> None:
        with tarfile.open(run.place / path) as archive:
            assert archive.getmember(name).isfile()

    return holds


def all_of(*effects: Effect) -> Effect:
    return lambda run: [effect(run) for effect in effects]


def mounted(point: str, *, there: bool = True) -> Effect:
    def holds(run: Run) -> None:
        assert (str(run.place / point) in mount_points()) is there

    return holds


def daemon(*, alive: bool) -> Effect:
    """What was printed is its number, if it lives."""

    def holds(run: Run) -> None:
        assert lives(f"{run.place}/state") is alive
        assert not alive or Path(f"/proc/{int(run.output)}").exists()

    return holds


def frees(*, something: bool) -> Effect:
    def holds(run: Run) -> None:
        freed, words = run.output.split(" ", 1)
        assert (int(freed) > 0, words) == (something, "bytes freed\n")

    return holds


def containers(**codes: int | None) -> Effect:
    """These there are, ended with their exit code or, None, running."""

    def holds(run: Run) -> None:
        told = run_line("lazyrun ps -a --json", run.scenery, run.place).output
        assert {state["name"]: state.get("exit_code") for state in json.loads(told)} == codes

    return holds


def then(line: str) -> Effect:
    """This runs next, so that the next example finds what it wants."""
    return lambda run: run_line(line, run.scenery, run.place)


def run_line(line: str, scenery: Scenery, place: Path, typed: str = "") -> Run:
    """A line by a shell in `place`, as printed but for names; it must succeed.

    Where it asks for a terminal it has one, and `typed` is typed at the prompt.
    """
    for word, real in scenery.words(place).items():
        line = line.replace(word, real)
    command, environment = ["bash", "-c", line], scenery.environment(place)
    if " -it " in line:
        code, shown = type_at_prompt(command, typed, place, environment)
        assert code == 0, f"{line}\n{shown}"
        return Run(shown, place, scenery)
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return Run(done.stdout, place, scenery)
