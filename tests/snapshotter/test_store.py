"""The store against containerd's contract, on the kernel's overlayfs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fs import mounts
from fs.format.errors import MountError, NotFoundError, StorageError, UsageError
from snapshotter.errors import SnapshotExistsError, SnapshotStateError
from snapshotter.images import DirectoryImages
from snapshotter.metadata import ACTIVE, COMMITTED, VIEW
from snapshotter.overlay import Layers, mount_layers
from snapshotter.store import Store
from snapshotter.trees import disk_usage, remove_tree

pytestmark = pytest.mark.overlay

Mounted = Callable[[str], AbstractContextManager[Path]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "store"), DirectoryImages()) as opened:
        yield opened


@pytest.fixture
def mounted(store: Store, tmp_path: Path) -> Mounted:
    """Mounts a snapshot for the length of a `with`, at a path that is returned."""

    @contextmanager
    def mount(key: str) -> Iterator[Path]:
        target = tmp_path / "mnt"
        target.mkdir(exist_ok=True)
        mount_layers(store.layers(key), str(target))
        try:
            yield target
        finally:
            mounts.umount(target)

    return mount


def commit_layer(
    store: Store, mounted: Mounted, name: str, parent: str | None, change: Callable[[Path], None]
) -> None:
    store.prepare(f"{name}-key", parent)
    with mounted(f"{name}-key") as root:
        change(root)
    store.commit(name, f"{name}-key")


def base_tree(root: Path) -> None:
    (root / "foo").write_text("foo")
    (root / "a").mkdir()
    (root / "a/b").mkdir()
    (root / "a/b/deep").write_text("deep")
    (root / "gone").write_text("gone")
    os.link(root / "foo", root / "foo-link")


def listing(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = path.read_text() if path.is_file() else stat.filemode(path.lstat().st_mode)
    return found


def test_committed_content_is_under_what_is_prepared_on_it(store: Store, mounted: Mounted) -> None:
    commit_layer(store, mounted, "one", None, base_tree)
    store.prepare("two-key", "one")
    with mounted("two-key") as root:
        assert listing(root)["a/b/deep"] == "deep"
        (root / "foo").write_text("changed")
    assert store.stat("one").kind == COMMITTED
    with_view = store.view("look", "one")
    assert with_view[0].type == "bind"
    assert "ro" in with_view[0].options
    with mounted("look") as root:
        assert (root / "foo").read_text() == "foo"
        with pytest.raises(OSError, match="Read-only"):
            (root / "foo").write_text("no")


def test_changes_through_three_layers(store: Store, mounted: Mounted) -> None:
    def second(root: Path) -> None:
        (root / "gone").unlink()
        subprocess.run(["mv", root / "a", root / "moved"], check=True)
        (root / "a").mkdir()
        (root / "a/fresh").write_text("fresh")

    def third(root: Path) -> None:
        (root / "foo").write_text("third")

    commit_layer(store, mounted, "one", None, base_tree)
    commit_layer(store, mounted, "two", "one", second)
    commit_layer(store, mounted, "three", "two", third)
    store.view("look", "three")
    with mounted("look") as root:
        assert listing(root) == {
            "a": "drwxr-xr-x",
            "a/fresh": "fresh",
            "foo": "third",
            "foo-link": "foo",
            "moved": "drwxr-xr-x",
            "moved/b": "drwxr-xr-x",
            "moved/b/deep": "deep",
        }
        with pytest.raises(OSError, match="Read-only"):
            (root / "new").write_text("no")


def test_kinds_parents_and_labels_are_reported(store: Store) -> None:
    store.prepare("key", labels={"a": "1"})
    assert store.stat("key").kind == ACTIVE
    store.commit("base", "key", labels={"b": "2"})
    store.view("look", "base")
    store.prepare("work", "base")
    told = {info.name: (info.kind, info.parent, info.labels) for info in store.walk()}
    assert told == {
        "base": (COMMITTED, "", {"b": "2"}),
        "look": (VIEW, "base", {}),
        "work": (ACTIVE, "base", {}),
    }
    before = store.stat("work")
    after = store.update("work", {"x": "1", "y": "2"}, ["labels.x"])
    assert after.labels == {"x": "1"}
    assert after.updated > before.updated
    assert after.created == before.created
    assert store.update("work", {"z": "3"}).labels == {"z": "3"}
    assert store.update("work", {}, ["labels.z"]).labels == {}
    with pytest.raises(UsageError, match="parent cannot be changed"):
        store.update("work", {}, ["parent"])


def test_names_are_taken_once(store: Store) -> None:
    store.prepare("key")
    for again in (store.prepare, store.view):
        with pytest.raises(SnapshotExistsError):
            again("key")
    store.commit("base", "key")
    store.prepare("key")
    with pytest.raises(SnapshotExistsError):
        store.commit("base", "key")
    assert store.stat("key").kind == ACTIVE


def test_unknown_names_are_not_found(store: Store) -> None:
    for call in (store.stat, store.mounts, store.remove, store.usage):
        with pytest.raises(NotFoundError):
            call("nobody")
    with pytest.raises(NotFoundError):
        store.commit("name", "nobody")
    with pytest.raises(NotFoundError):
        store.prepare("key", "nobody")
    assert list(store.walk()) == []


def test_preconditions(store: Store) -> None:
    store.prepare("key")
    with pytest.raises(UsageError, match="parent must be committed"):
        store.prepare("child", "key")
    store.commit("base", "key")
    with pytest.raises(SnapshotStateError):
        store.mounts("base")
    store.view("look", "base")
    for name in ("look", "base"):
        with pytest.raises(SnapshotStateError):
            store.commit("other", name)
    with pytest.raises(SnapshotStateError, match="children"):
        store.remove("base")
    store.remove("look")
    store.remove("base")
    assert list(store.walk()) == []


def test_removal_takes_the_directory_and_cleanup_what_a_crash_left(
    store: Store, tmp_path: Path
) -> None:
    snapshots = tmp_path / "store/snapshots"
    store.prepare("key")
    store.remove("key")
    assert list(snapshots.iterdir()) == []
    store.prepare("kept")
    (snapshots / "77/fs/deep").mkdir(parents=True)
    (snapshots / "1.removing").mkdir()
    assert store.cleanup() == 2
    assert [path.name for path in snapshots.iterdir()] == ["2"]
    # An identifier that a crash took without its row is given out again.
    (snapshots / "3/fs").mkdir(parents=True)
    (snapshots / "3/fs/stale").write_text("of another")
    store.prepare("next")
    assert list((snapshots / "3/fs").iterdir()) == []
    assert store.cleanup() == 1


def test_a_killed_process_leaves_a_whole_store(tmp_path: Path) -> None:
    """Killed between directory and row at every place, many times over."""
    program = (
        "import os, signal, sys\n"
        "from snapshotter.store import Store\n"
        "from snapshotter.images import DirectoryImages\n"
        "store = Store(sys.argv[1], DirectoryImages())\n"
        "real = os.mkdir\n"
        "calls = [int(sys.argv[2])]\n"
        "def mkdir(*a, **k):\n"
        "    if not calls[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    calls[0] -= 1\n"
        "    real(*a, **k)\n"
        "os.mkdir = mkdir\n"
        "store.prepare(sys.argv[3])\n"
    )
    root = str(tmp_path / "store")
    Store(root, DirectoryImages()).close()
    for place in range(3):
        done = subprocess.run([sys.executable, "-c", program, root, str(place), f"key{place}"])
        assert done.returncode == -9
    with Store(root, DirectoryImages()) as store:
        assert list(store.walk()) == []
        store.prepare("key")
        store.cleanup()
        assert os.listdir(tmp_path / "store/snapshots") == ["1"]


def test_processes_share_a_store(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from snapshotter.store import Store\n"
        "from snapshotter.images import DirectoryImages\n"
        "with Store(sys.argv[1], DirectoryImages()) as store:\n"
        "    for n in range(20):\n"
        "        store.prepare(f'{sys.argv[2]}-{n}')\n"
        "        if n % 2: store.remove(f'{sys.argv[2]}-{n}')\n"
    )
    root = tmp_path / "store"
    command = [sys.executable, "-c", program, str(root)]
    running = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [process.wait() for process in running] == [0, 0, 0]
    with Store(str(root), DirectoryImages()) as store:
        assert len(list(store.walk())) == 30
    assert len(list((root / "snapshots").iterdir())) == 30


def test_usage(store: Store, mounted: Mounted) -> None:
    store.prepare("key")
    empty = store.usage("key")
    with mounted("key") as root:
        (root / "big").write_bytes(b"x" * 300_000)
        os.link(root / "big", root / "again")
        (root / "sparse").touch()
        os.truncate(root / "sparse", 1 << 30)
    used = store.usage("key")
    assert used.inodes == empty.inodes + 2
    assert 300_000 <= used.size - empty.size < 340_000
    store.commit("base", "key")
    assert store.usage("base") == used
    store.view("look", "base")
    assert store.usage("look").size == 0


def test_the_root_directory_looks_like_the_parents(store: Store, mounted: Mounted) -> None:
    def change(root: Path) -> None:
        os.chmod(root, 0o711)
        os.chown(root, 12, 34)

    commit_layer(store, mounted, "base", None, change)
    store.prepare("key", "base")
    with mounted("key") as root:
        status = root.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o711, 12, 34)


def test_image_layers_are_mounted_when_needed(
    store: Store, mounted: Mounted, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "file").write_text("from the image")
    store.attach("image", str(image))
    store.prepare("key", "image")
    with mounted("key") as root:
        assert (root / "file").read_text() == "from the image"
        (root / "file").write_text("changed")
    assert (image / "file").read_text() == "from the image"
    layer = tmp_path / "store/snapshots/1/fs"
    mounts.umount(layer)  # as after a reboot
    with mounted("key") as root:
        assert (root / "file").read_text() == "changed"
    store.remove("key")
    store.remove("image")
    assert str(layer) not in Path("/proc/self/mountinfo").read_text()
    assert (image / "file").exists()


def test_an_image_that_cannot_be_mounted_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        store.attach("image", str(tmp_path / "nowhere"))
    assert list(store.walk()) == []
    assert list((tmp_path / "store/snapshots").iterdir()) == []


@pytest.mark.parametrize("count", [2, 100, 300])
def test_many_layers(tmp_path: Path, count: int) -> None:
    lowers = []
    for number in range(count):
        layer = tmp_path / f"layer,{number}:with \\ signs"
        layer.mkdir()
        (layer / str(number)).touch()
        (layer / "same").write_text(str(number))
        lowers.append(str(layer))
    upper, work, target = (tmp_path / name for name in ("up,per", "wo:rk", "target"))
    for directory in (upper, work, target):
        directory.mkdir()
    mount_layers(Layers(tuple(lowers), str(upper), str(work)), str(target), nodev=True)
    try:
        assert len(os.listdir(target)) == count + 1
        assert (target / "same").read_text() == "0"
        (target / "written").touch()
        assert (upper / "written").exists()
    finally:
        mounts.umount(target)


def test_a_mount_that_the_kernel_refuses_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=str(tmp_path)):
        mount_layers(Layers((str(tmp_path / "none"), "/nowhere")), str(tmp_path))


def test_trees_of_any_depth_are_removed_and_measured(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("n" * 20, dir_fd=directory)
        below = os.open("n" * 20, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    assert disk_usage(str(top)).inodes > 100
    remove_tree(str(top))
    assert list(tmp_path.iterdir()) == []


def test_removing_does_not_enter_links_or_mounts(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    remove_tree(str(top))
    (top / "mount").mkdir(parents=True)
    mounts.mount(outside, top / "mount", None, mounts.MS_BIND)
    try:
        with pytest.raises(StorageError, match="busy"):
            remove_tree(str(top))
    finally:
        mounts.umount(top / "mount")
    assert (outside / "precious").exists()
