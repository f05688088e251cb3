"""What this machine can do, asked once, and the real parts that tests share.

A test that needs a capability carries its marker; where the capability is
missing the test is skipped with the reason. With NYDUS_TESTS_COMPLETE=1 (CI)
a missing capability fails the session instead of hiding tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.parts.registry import Registry, start_registry


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _fuse() -> str:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return ""


def _kernel_fs(name: str) -> str:
    if _root():
        return _root()
    known = Path("/proc/filesystems").read_text().split()
    return "" if name in known else f"kernel has no {name}"


def _programs(*names: str) -> str:
    missing = [name for name in names if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


CAPABILITIES: dict[str, Callable[[], str]] = {
    "root": _root,
    "fuse": _fuse,
    "erofs": lambda: _kernel_fs("erofs"),
    "overlay": lambda: _kernel_fs("overlay"),
    "registry": lambda: _programs("docker-registry", "htpasswd"),
    "containerd": lambda: _root() or _programs("containerd", "ctr", "runc"),
}


@cache
def missing(capability: str) -> str:
    """Why `capability` is not there, or '' when it is."""
    return CAPABILITIES[capability]()


def pytest_report_header(config: pytest.Config) -> str:
    states = [f"{name}: {missing(name) or 'yes'}" for name in CAPABILITIES]
    return "capabilities: " + "; ".join(states)


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.environ.get("NYDUS_TESTS_COMPLETE") != "1":
        return
    gaps = [f"{name}: {missing(name)}" for name in CAPABILITIES if missing(name)]
    if gaps:
        pytest.exit("capabilities are missing: " + "; ".join(gaps), returncode=4)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in CAPABILITIES:
        if item.get_closest_marker(name) and missing(name):
            pytest.skip(missing(name))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "scale" in (config.option.markexpr or ""):
        return
    wanted = [item for item in items if not item.get_closest_marker("scale")]
    if len(wanted) != len(items):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("scale")])
        items[:] = wanted


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One open docker-registry for the session; tests use repositories of their own."""
    with start_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
