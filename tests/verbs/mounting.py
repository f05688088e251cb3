"""What the examples of `nydus-fs` and `lazyrun` find: mounts, a cache, a trace, containers."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

from fs.daemon.state import lives
from tests.parts.leaks import detach, mounts_below
from tests.parts.waiting import PATIENCE
from tests.verbs.scenes import COMMANDS, Scene, Scenery, put_files, put_images, run_container


def _call(scenery: Scenery, place: Path, *words: str) -> str:
    """One of our commands, which must succeed."""
    done = subprocess.run(
        [str(COMMANDS / words[0]), *words[1:]],
        cwd=place,
        env=scenery.environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout


def _empty(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    put_files(scenery, place)
    (place / "mnt").mkdir()


def _mounted(scenery: Scenery, place: Path, stack: ExitStack) -> None:
    _empty(scenery, place, stack)
    _call(scenery, place, "nydus-fs", "mount", "oci:images:nydus", "mnt")


def _read(scenery: Scenery, place: Path, stack: ExitStack) -> None:
    """A mount from the registry has been read, so there are a cache and a trace."""
    _empty(scenery, place, stack)
    source = f"{scenery.registry.host}/app:nydus"
    _call(scenery, place, "nydus-fs", "mount", "--trace", "app.trace", source, "mnt")
    (place / "mnt/etc/app").read_bytes()
    _call(scenery, place, "nydus-fs", "umount", "mnt")


def _directory(scenery: Scenery, place: Path, _: ExitStack) -> None:
    put_images(scenery, place)
    (place / "main.sh").write_text('echo "DEBUG is $DEBUG in $PWD"\n')


def _containers(scenery: Scenery, place: Path, stack: ExitStack) -> None:
    """`build` runs, and `old` has ended."""
    image = f"{scenery.registry.host}/app:nydus"
    _call(scenery, place, "lazyrun", "run", "--name", "old", image, "true")
    run_container(scenery, place, stack)


def _plain(scenery: Scenery, place: Path, _: ExitStack) -> None:
    """A plain image's layers are there, which no container uses."""
    _call(scenery, place, "lazyrun", "run", "--rm", f"{scenery.registry.host}/app:1")
    assert list((place / "root/store/snapshots").iterdir())


#: As `SCENES` of the verbs of `nydusify`.
MOUNTING_SCENES: dict[str, Scene] = {
    "nydus-fs": _empty,
    "nydus-fs mount": _empty,
    "nydus-fs umount": _mounted,
    "nydus-fs status": _mounted,
    "nydus-fs cache": _read,
    "nydus-fs cache ls": _read,
    "nydus-fs cache prune": _read,
    "nydus-fs cache verify": _read,
    "nydus-fs trace": _read,
    "nydus-fs trace show": _read,
    "lazyrun": _directory,
    "lazyrun run": _directory,
    "lazyrun ps": _containers,
    "lazyrun rm": _containers,
    "lazyrun prune": _plain,
}


def clear_away(scenery: Scenery, place: Path) -> None:
    """Remove the containers of a directory, end its daemons, unmount what is mounted in it."""
    if (place / "root/containers").exists():
        told = json.loads(_call(scenery, place, "lazyrun", "ps", "-a", "--json"))
        if names := [state["id"] for state in told]:
            _call(scenery, place, "lazyrun", "rm", "-f", *names)
    for root in (place / "state", place / "root/nydus-fs"):
        if lives(str(root)):
            _call(scenery, place, "nydus-fs", "daemon", "--stop", "--state-root", str(root))
    detach(mounts_below(place))
