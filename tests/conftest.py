"""What this machine can do, asked once, and the real parts that tests share.

A test that needs a capability carries its marker; where the capability is
missing the test is skipped with the reason. With NYDUS_TESTS_COMPLETE=1 (CI)
a missing capability fails the session instead of hiding tests.
A session also fails when its tests leave mounts or processes behind.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fs import mounts
from tests.parts import failures, leaks
from tests.parts.registry import Registry, start_registry
from tests.parts.system import system_layer

REPOSITORY = Path(__file__).resolve().parent.parent

# A shared machine makes examples slow by chance: no deadlines. The same examples each time:
# new ones are for `./dev fuzz`, so that a change is never blamed for what was there before.
settings.register_profile(
    "usual", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("usual")


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _fuse() -> str:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return programs_missing("fusermount3")


def _overlay() -> str:
    if _root():
        return _root()
    known = Path("/proc/filesystems").read_text().split()
    return "" if "overlay" in known else "kernel has no overlay"


def _erofs() -> str:
    """Really mount one image from a plain file: kernels before 6.12 want a block device."""
    if reason := _root() or programs_missing("mkfs.erofs", "fsck.erofs", "dump.erofs"):
        return reason
    with tempfile.TemporaryDirectory(prefix="erofs-probe-") as name:
        work = Path(name)
        (work / "tree").mkdir()
        (work / "mnt").mkdir()
        subprocess.run(
            ["mkfs.erofs", "--quiet", work / "image", work / "tree"],
            check=True,
            capture_output=True,
        )
        try:
            mounts.mount(work / "image", work / "mnt", "erofs", mounts.MS_RDONLY)
        except OSError as error:
            return f"kernel does not mount EROFS from a file: {error.strerror}"
        mounts.umount(work / "mnt")
    return ""


def programs_missing(*names: str) -> str:
    """Which of the programs are not on the PATH, as a reason to skip; '' when all are there."""
    missing = [name for name in names if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def modules_missing(*names: str) -> str:
    """The same for Python modules that only tests import."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def find_samples() -> Path | None:
    """The directory of images and layers that other people's tools made."""
    given = os.environ.get("NYDUS_SAMPLES")
    near = (REPOSITORY.parent / "shared/samples", REPOSITORY / "tests/data/samples")
    places = (Path(given),) if given else near
    return next((place for place in places if (place / "README.md").exists()), None)


CAPABILITIES: dict[str, Callable[[], str]] = {
    "root": _root,
    "fuse": _fuse,
    "erofs": _erofs,
    "overlay": _overlay,
    "registry": lambda: programs_missing("docker-registry", "htpasswd", "openssl"),
    "containerd": lambda: _root() or programs_missing("containerd", "ctr", "runc"),
    "estargz": lambda: programs_missing("ctr-remote"),
    "fio": lambda: programs_missing("fio"),
    "nginx": lambda: programs_missing("nginx"),
    "oci_tools": lambda: programs_missing("umoci", "skopeo"),
    "s3": lambda: modules_missing("moto", "flask", "flask_cors", "botocore"),
    "system": lambda: "" if find_samples() else programs_missing("busybox"),
    "samples": lambda: "" if find_samples() else "no samples; NYDUS_SAMPLES can name them",
}

ON_REQUEST = ("scale", "soak", "nydusd")


@cache
def missing(capability: str) -> str:
    """Why `capability` is not there, or '' when it is."""
    return CAPABILITIES[capability]()


def pytest_report_header(config: pytest.Config) -> str:
    states = [f"{name}: {missing(name) or 'yes'}" for name in CAPABILITIES]
    return "capabilities: " + "; ".join(states)


def _complete() -> bool:
    return os.environ.get("NYDUS_TESTS_COMPLETE") == "1"


def pytest_configure(config: pytest.Config) -> None:
    os.environ[leaks.MARK] = uuid.uuid4().hex
    os.environ["NYDUSIFY_CACHE"] = ""  # conversions are what is tested, unless a test says so


def pytest_sessionstart(session: pytest.Session) -> None:
    everyone = Path(tempfile.gettempdir()).glob("pytest-of-*")
    for directory in everyone:
        leaks.sweep_dead_sessions(directory)
    if not _complete():
        return
    gaps = [f"{name}: {missing(name)}" for name in CAPABILITIES if missing(name)]
    if gaps:
        pytest.exit("capabilities are missing: " + "; ".join(gaps), returncode=4)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in CAPABILITIES:
        if item.get_closest_marker(name) and missing(name):
            pytest.skip(missing(name))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is only run when it is asked for by its marker."""
    unasked = [name for name in ON_REQUEST if name not in (config.option.markexpr or "")]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


_FAILED = pytest.StashKey[bool]()
_MOUNTED = pytest.StashKey[set[str]]()
_ROOT = pytest.StashKey[Path]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[_MOUNTED] = set(leaks.mount_points())
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Clear away what a failed test left before its fixtures look for what is left."""
    if item.stash.get(_FAILED, False):
        _clear_away(item, getattr(item, "funcargs", {}).get("tmp_path"))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    done = yield
    if item.stash.get(_FAILED, False):
        _clear_away(item, None)
        failures.forget()
    return done


def _clear_away(item: pytest.Item, place: Path | None) -> None:
    failures.end_processes_of(item.nodeid, place)
    if (before := item.stash.get(_MOUNTED, None)) is not None:
        mounted = leaks.mounts_below(item.config.stash[_ROOT])
        leaks.detach([point for point in mounted if point not in before])


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail at the end of the session if a mount or a process outlives its test."""
    before = set(leaks.mount_points())
    root = pytestconfig.stash[_ROOT] = tmp_path_factory.getbasetemp()
    yield
    processes = leaks.end_processes_of(os.environ[leaks.MARK], root)
    mounted = leaks.mounts_below(root)
    left = [f"mount {point}" for point in mounted] + processes
    if _complete():  # CI has the machine to itself: whatever is new is ours
        sessions = f"{tempfile.gettempdir()}/pytest-of-"  # others than this: theirs to clear away
        new = [point for point in leaks.mount_points() if point not in before | set(mounted)]
        left += [f"mount {point}" for point in new if not point.startswith(sessions)]
    leaks.detach(mounted)
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The samples; their README lists what a right reader makes of each."""
    found = find_samples()
    if found is None:
        pytest.skip(missing("samples"))
    return found


@pytest.fixture(scope="session")
def base_layer() -> bytes:
    """A gzip layer with a small system for containers: the sample of Alpine, else busybox."""
    if reason := missing("system"):
        pytest.skip(reason)
    found = find_samples()
    return (found / "alpine.estargz.tar.gz").read_bytes() if found else system_layer()


@pytest.fixture(scope="session")
def registry(
    tmp_path_factory: pytest.TempPathFactory, nothing_left_behind: None
) -> Iterator[Registry]:
    """One open docker-registry for the session; tests use repositories of their own."""
    with start_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
