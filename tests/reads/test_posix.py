"""A mounted image refuses what a read-only file system refuses, with the same words.

The facts are pjdfstest's (which call, on which kind of path, as whom); what is right is asked of
the kernel: the same tree on a tmpfs that was mounted read-only answers the same calls.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs import mounts
from tests.reads.calls import CALLS, PAIRED, PAIRS, PATHS
from tests.reads.mounting import DRIVERS, convert, mounted

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]

REPOSITORY = Path(__file__).resolve().parents[2]
OWNER, OTHER = 54321, 54322


def make_tree(root: Path) -> None:
    root.chmod(0o755)
    for name, mode in (("file", 0o644), ("executable", 0o755), ("unreadable", 0o600)):
        (root / name).write_text(name)
        (root / name).chmod(mode)
    for name, mode in (("dir", 0o755), ("private", 0o700), ("others", 0o755), ("open", 0o777)):
        (root / name).mkdir()
        (root / name).chmod(mode)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "dir/empty").mkdir()
    for name in ("dir/file", "private/file", "others/mine", "sticky/theirs", "n" * 255):
        (root / name).write_text(name)
    for name in ("others", "others/mine"):
        os.chown(root / name, OWNER, OWNER)
    os.chown(root / "sticky/theirs", OTHER, OTHER)
    for name, target in (
        ("to-file", "file"),
        ("to-dir", "dir"),
        ("to-nothing", "nothing"),
        ("to-itself", "to-itself"),
        ("to-each", "to-other"),
        ("to-other", "to-each"),
    ):
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@contextmanager
def _oracle(root: Path) -> Iterator[Path]:
    """The tree on a tmpfs that was made read-only."""
    root.mkdir()
    mounts.mount("none", root, "tmpfs", mounts.MS_NODEV)
    try:
        make_tree(root)
        flags = mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NODEV
        mounts.mount(None, root, None, flags)
        yield root
    finally:
        mounts.umount(root)


def _answers(root: Path, user: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reads.calls", str(root), str(user)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    work = tmp_path_factory.mktemp("posix")
    (work / "tree").mkdir()
    make_tree(work / "tree")
    return convert(work / "tree", work)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """What the read-only tmpfs answers, by user."""
    work = tmp_path_factory.mktemp("oracle")
    with _oracle(work / "oracle") as root:
        return {user: _answers(root, user) for user in (0, OWNER, OTHER)}


def test_oracle_knows_the_refusals(expected: dict[int, dict[str, str]]) -> None:
    """The comparison would be worth nothing if all calls failed in one way."""
    assert len(expected[0]) == len(CALLS) * len(PATHS) + len(PAIRS) * len(PAIRED) ** 2
    found = {answer for answers in expected.values() for answer in answers.values()}
    assert found >= {"", "EROFS", "ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EACCES", "EEXIST"}
    assert expected[0]["mkdir new"] == "EROFS"
    assert expected[0]["mkdir file"] == "EEXIST"
    assert expected[OWNER]["open private/file"] == "EACCES"


@pytest.mark.parametrize("user", [0, OWNER, OTHER])
@pytest.mark.parametrize("driver", DRIVERS)
def test_answers_are_those_of_a_read_only_file_system(
    image: str, expected: dict[int, dict[str, str]], driver: str, user: int, tmp_path: Path
) -> None:
    with mounted(image, tmp_path, driver) as point:
        answers = _answers(point, user)
    right = expected[user]
    wrong = [
        f"{call}: {answer or 'done'}, not {right[call] or 'done'}"
        for call, answer in answers.items()
        if answer != right[call] and not (driver == "erofs" and _is_unsynced(call, answer))
    ]
    assert wrong == []
    assert answers.keys() == right.keys()


def _is_unsynced(call: str, answer: str) -> bool:
    """EROFS, anybody's, does not know fsync of a directory."""
    return call.startswith("fsync ") and answer == "EINVAL"
