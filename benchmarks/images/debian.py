"""Debian in a directory: the base system by mmdebstrap, packages by the host's apt and a chroot.

The host's apt fetches, as it knows the way to a mirror; the tree's own installs.
Fetched packages are kept for other images.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.images.tree import run
from fs import mounts

SUITE = "bookworm"

#: What apt and the loader leave behind, and differs from build to build.
LEAVE_OUT = ("var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists",
             "var/log", "run", "tmp")  # fmt: skip
_LEFTOVERS = ("etc/machine-id", "etc/resolv.conf", "etc/hostname", "var/lib/dpkg/status-old",
              "var/lib/dpkg/available-old", "var/lib/dpkg/diversions-old",
              "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-",
              "var/lib/systemd/catalog/database")  # fmt: skip

#: As in Docker's images: installing a server does not start it.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"


def make_base(tree: Path, epoch: int) -> None:
    """A minimal system with the lists of all packages as they are now."""
    run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--skip=cleanup/apt",
         SUITE, str(tree)],
        SOURCE_DATE_EPOCH=str(epoch),
    )  # fmt: skip
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text(_NO_SERVICES)
    policy.chmod(0o755)
    drop_leftovers(tree)


def install(root: Path, packages: Sequence[str], debs: Path) -> None:
    """Install in the tree what is wanted without recommendations. `debs` keeps the packages."""
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(
            f'Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\n'
            f'Dir::Cache::archives "{debs}";\nAPT::Sandbox::User "root";\n'
            f'Acquire::Languages "none";\n'
        )
        settings.flush()
        run(
            ["apt-get", "--quiet=2", "--yes", "--download-only", "--no-install-recommends",
             "install", *packages],
            APT_CONFIG=settings.name,
        )  # fmt: skip
    with in_use(root), _bound(debs, root / "var/cache/apt/archives"):
        run(
            ["chroot", str(root), "apt-get", "--quiet=2", "--yes", "--no-download",
             "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold",
             "install", *packages],
            PATH="/usr/sbin:/usr/bin:/sbin:/bin",
        )  # fmt: skip
    drop_leftovers(root)


def install_wheels(root: Path, wheels: Sequence[str]) -> None:
    """Python packages from PyPI, where the tree's own Python looks for them."""
    place = root / "usr/local/lib/python3.11/dist-packages"
    run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install",
         "--no-compile", "--only-binary=:all:", "--python-version", "3.11",
         "--target", str(place), *wheels],
    )  # fmt: skip


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """With /proc in it, as programs expect, if it has a place for it."""
    if not (root / "proc").is_dir():
        yield
        return
    mounts.mount("proc", root / "proc", "proc")
    try:
        yield
    finally:
        mounts.umount(root / "proc")


@contextmanager
def _bound(source: Path, target: Path) -> Iterator[None]:
    target.mkdir(parents=True, exist_ok=True)
    mounts.mount(str(source), target, None, mounts.MS_BIND)
    try:
        yield
    finally:
        mounts.umount(target)


def drop_leftovers(root: Path) -> None:
    for name in _LEFTOVERS:
        (root / name).unlink(missing_ok=True)
