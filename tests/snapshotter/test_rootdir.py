"""Paths inside a root, against what chroot(2) itself makes of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fs import rootdir
from tests.parts.examples import examples


@pytest.fixture
def top(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("in the root")
    (tmp_path / "outside").mkdir()
    links = {
        "up": "../../..",
        "abs": "/a/b",
        "out": str(tmp_path / "outside"),
        "a/b/back": "../../a",
        "loop": "loop",
        "dangling": "nowhere/../there/below",
        "proc": "/proc/self/root",
        "chain": "abs/back/file",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def root(top: Path) -> Iterator[int]:
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def place(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def as_chroot_sees(top: Path, path: str) -> tuple[int, int] | int:
    """(device, inode) or errno of `path` for a process whose root is `top`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(top)
            os.chdir("/")
            status = os.stat("/" + path)
            os.write(writer, f"{status.st_dev} {status.st_ino}".encode())
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = [int(number) for number in pipe.read().split()]
    os.waitpid(pid, 0)
    return (told[0], told[1]) if len(told) == 2 else told[0]


NAMES = st.sampled_from(
    "a b file up abs out back loop dangling proc chain .. .".split()  # noqa: SIM905 - readable
)


def opened_in_root(root: int, path: str) -> tuple[int, int] | int:
    """The same by the code under test."""
    try:
        descriptor = rootdir.open_in_root(root, path)
    except OSError as error:
        return error.errno or 0
    status = os.fstat(descriptor)
    os.close(descriptor)
    return status.st_dev, status.st_ino


@pytest.mark.root
@settings(
    max_examples=examples(80),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(NAMES, max_size=6))
def test_resolves_as_a_chrooted_process_does(top: Path, root: int, names: list[str]) -> None:
    path = "/".join(names)
    expected = as_chroot_sees(top, path)
    # "file/." is no directory to stat(2); to us it is the file, and then not what is wanted.
    assert opened_in_root(root, path) == expected or expected == errno.ENOTDIR


def test_what_is_missing_is_made_where_links_lead(root: int, top: Path) -> None:
    assert place(rootdir.make_directory(root, "up/x/y")) == f"{top}/x/y"
    assert place(rootdir.make_directory(root, "out/new")).startswith(f"{top}/")
    assert place(rootdir.make_file(root, "dangling")) == f"{top}/there/below"
    assert place(rootdir.make_file(root, "a/file")) == f"{top}/a/file"
    assert place(rootdir.make_directory(root, "abs/../../../../z")) == f"{top}/z"
    assert os.listdir(top.parent / "outside") == []
    with pytest.raises(NotADirectoryError):
        rootdir.make_directory(root, "a/file")
    with pytest.raises(OSError, match="Too many levels"):
        rootdir.make_directory(root, "loop/x")


def test_reading_is_limited_and_of_regular_files(root: int, top: Path) -> None:
    assert rootdir.read_file(root, "chain", 6) == b"in the"
    os.mkfifo(top / "fifo")
    (top / "passwd").symlink_to("/etc/passwd")
    for path in ("fifo", "a", "passwd", "proc/etc/passwd"):
        with pytest.raises(OSError, match=r"regular|No such|Too many"):
            rootdir.read_file(root, path, 10)


def test_no_descriptor_is_lost(root: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("abs/back/a/b/../../file", "loop", "nowhere", "up/up/up", "a/file/x"):
        with suppress(OSError):
            os.close(rootdir.open_in_root(root, path))
    assert len(os.listdir("/proc/self/fd")) == before
