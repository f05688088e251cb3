"""Where and by what is measured: processors, kernel, versions of the tools, commit."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
_MEASURED = (
    "fs", "nydusify", "runner", "snapshotter", "benchmarks/images", "benchmarks/stargz",
    "benchmarks/measure.py", "benchmarks/services.py",
    *(f"benchmarks/suite/{name}" for name in (
        "account.py", "delay.c", "eager.py", "formats.py", "lazy.py", "modes.py", "networks.py",
        "run.py", "scatter.py", "subject.py", "suite.py",
    )),
)  # fmt: skip
_TOOLS = {
    "containerd": ["containerd", "--version"],
    "runc": ["runc", "--version"],
    "podman": ["podman", "--version"],
    "docker-registry": ["docker-registry", "--version"],
    "ctr-remote": ["dpkg-query", "--show", "--showformat", "${Version}", "stargz-snapshotter"],
}
_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+~-]*")
_STARGZ = re.compile(rb"dep\tgithub.com/containerd/stargz-snapshotter\tv([\d.]+)")


def commit() -> str:
    """`git describe` of this tree; "unknown" where it is no checkout."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def code() -> str:
    """A digest of all that decides what is measured and how: not of documents, tests, or charts."""
    digest = hashlib.sha256()
    for name in _MEASURED:
        top = _REPOSITORY / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(_REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def description(stargz: str | None) -> dict[str, object]:
    """`stargz` is the daemon that is measured, if one is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "commit": commit(),
        "code": code(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "unpigz": shutil.which("unpigz") is not None,  # containerd unpacks with it
        "versions": _versions(stargz),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions(stargz: str | None) -> dict[str, str]:
    found = {}
    for name, command in _TOOLS.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True)
            if match := _VERSION.search(done.stdout):
                found[name] = match[0]
    if stargz:
        found["stargz-snapshotter"] = _stargz_version(Path(stargz))
    return found


def _stargz_version(daemon: Path) -> str:
    """As Go has noted it in the program; without modules it is that of Debian's library."""
    if match := _STARGZ.search(daemon.read_bytes()):
        return match[1].decode()
    package = "golang-github-containerd-stargz-snapshotter-dev"
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", package],
        capture_output=True,
        text=True,
    )
    return done.stdout or "unknown"
