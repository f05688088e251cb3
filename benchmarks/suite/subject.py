"""The image that is measured, and where one run of it takes place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.images.build import TAG
from benchmarks.images.recipe import Recipe
from benchmarks.images.tree import APP
from benchmarks.suite.account import Account
from benchmarks.suite.networks import Network
from fs import mounts
from fs.registry.store import open_reader


@dataclass(frozen=True)
class Subject:
    """A recipe's image as it was built: `layout` is its OCI layout, tagged `TAG`."""

    recipe: Recipe
    layout: Path

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def source(self) -> str:
        return f"oci:{self.layout}:{TAG}"

    def command(self) -> list[str]:
        """The whole command line, for tools whose arguments replace the entry point, too."""
        config: Mapping[str, Any] = self.recipe.config
        words = self.recipe.run.arguments or config.get("Cmd") or ()
        return [*(config.get("Entrypoint") or ()), *words]

    def shown(self) -> list[tuple[Path, str]]:
        """Directories of the host, and where the container sees them."""
        return [(APP / self.name / name, target) for name, target in self.recipe.run.mounts]


@dataclass(frozen=True)
class Place:
    """Where one run takes place: an empty directory, a cgroup, and a registry at `host`."""

    work: Path
    account: Account
    host: str
    network: Network
    subject: Subject

    def reference(self, tag: str) -> str:
        return f"{self.host}/{self.subject.name}:{tag}"


def stored_bytes(reference: str) -> int:
    """Manifest, configuration and layers as they are stored for `reference`."""
    with closing(open_reader(reference)) as reader:
        manifest = reader.resolve(nydus=True).manifest
    return len(manifest.raw) + sum(d.size for d in [manifest.config, *manifest.layers])


def detach_below(directory: Path) -> None:
    """Take away all that is mounted below a directory."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4]
        if target.startswith(f"{directory.resolve()}/"):
            mounts.umount(target, mounts.MNT_DETACH)
