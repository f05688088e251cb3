"""Images by the real commands: converted under measurement, mounted, their parts on disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fs.daemon import launch
from tests.e2e.commands import succeed
from tests.e2e.images import blob_path, manifest_of
from tests.parts.waiting import eventually
from tests.scale.processes import Figures, measure


class Mounted(NamedTuple):
    """A mount of its own cache and state. `pid` is its worker's."""

    path: Path
    cache: Path
    state: Path
    pid: int

    def status(self) -> dict[str, Any]:
        return launch.status(str(self.path), state_root=str(self.state))


def convert(layer: Path, work: Path, *options: object) -> tuple[Path, Figures]:
    """The image of one layer as an OCI layout in `work`, tagged `nydus`."""
    layout = work / f"{layer.stem}.layout"
    figures = measure(
        "nydusify", "convert", "--source", f"layer:{layer}",
        "--target", f"oci:{layout}:nydus", "--work-dir", work, *options,
    )  # fmt: skip
    return layout, figures


@contextmanager
def mounted(source: str, directory: Path, *options: object) -> Iterator[Mounted]:
    """`source` mounted at `directory`/mnt from an empty cache, unmounted by the command."""
    places = [directory / name for name in ("mnt", "cache", "state")]
    for place in places:
        place.mkdir(parents=True)
    target, cache, state = places
    succeed(
        "nydus-fs", "mount", source, target, "--cache-dir", cache, "--state-root", state, *options
    )
    try:
        pid = launch.status(str(target), state_root=str(state))["worker_pid"]
        yield Mounted(target, cache, state, pid)
    finally:
        succeed("nydus-fs", "umount", target, "--state-root", state)
        eventually(lambda: not any(state.iterdir()), "the daemon and its own mount are gone")


def bootstrap_of(layout: Path, directory: Path) -> Path:
    """The bootstrap of the image in `layout`, as a file in `directory`."""
    layer = blob_path(layout, manifest_of(layout, "nydus")["layers"][-1]["digest"])
    directory.mkdir(exist_ok=True)
    bootstrap = directory / "image.boot"
    with tarfile.open(layer) as archive:
        member = archive.extractfile("image/image.boot")
        assert member
        bootstrap.write_bytes(member.read())
    return bootstrap
