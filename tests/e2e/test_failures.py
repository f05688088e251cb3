"""What goes wrong gives one line, its exit code, and nothing half-published.

The codes are those of fs/format/errors.py; lazyrun has docker's 125 for all of them,
because the lower ones belong to the container.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs import mounts
from fs.registry.mediatypes import NYDUS_BLOB
from tests.e2e.commands import Done, assert_refused, call, succeed
from tests.e2e.images import blob_path, manifest_of, tags_of
from tests.parts.registry import Registry, free_port, start_registry

pytestmark = [pytest.mark.system]

VERIFY, NOT_FOUND, ACCESS, UNREACHABLE, STORAGE = 4, 5, 6, 7, 8


def convert(source: str, target: str, *options: object) -> Done:
    return call("nydusify", "convert", "--source", source, "--target", target, *options)


@pytest.fixture
def damaged(plain_layout: Path, tmp_path: Path) -> Path:
    """A copy of the small image that a test may spoil."""
    return shutil.copytree(plain_layout, tmp_path / "damaged")


def layer_path(layout: Path, tag: str, number: int) -> Path:
    return blob_path(layout, manifest_of(layout, tag)["layers"][number]["digest"])


def flip_byte(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("number", [0, 1])
def test_layer_with_another_digest(damaged: Path, tmp_path: Path, number: int) -> None:
    layer = layer_path(damaged, "plain", number)
    flip_byte(layer, layer.stat().st_size - 100)
    target = tmp_path / "target"
    done = convert(f"oci:{damaged}:plain", f"oci:{target}:nydus")
    assert done.returncode in (3, VERIFY)  # what breaks first: the gzip stream or the digest
    assert_refused(done, done.returncode, layer.name)
    assert tags_of(target) == []


def test_layer_cut_short(damaged: Path, tmp_path: Path) -> None:
    layer = layer_path(damaged, "plain", 0)
    with layer.open("r+b") as file:
        file.truncate(layer.stat().st_size // 2)
    target = tmp_path / "target"
    assert_refused(convert(f"oci:{damaged}:plain", f"oci:{target}:nydus"), VERIFY, layer.name)
    assert tags_of(target) == []


def test_manifest_with_another_digest(damaged: Path, tmp_path: Path) -> None:
    config = manifest_of(damaged, "plain")["config"]["digest"]
    manifests = [p for p in (damaged / "blobs/sha256").iterdir() if p.stat().st_size < 2000]
    manifest = next(p for p in manifests if config in p.read_text())
    manifest.write_text(manifest.read_text().replace("schemaVersion", "schemaversion"))
    target = tmp_path / "target"
    assert_refused(convert(f"oci:{damaged}:plain", f"oci:{target}:nydus"), VERIFY, manifest.name)
    assert tags_of(target) == []


def test_no_such_tag(plain_layout: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = convert(f"oci:{plain_layout}:absent", f"oci:{target}:nydus")
    assert_refused(done, NOT_FOUND, "absent")


@pytest.mark.registry
def test_no_such_image_in_a_registry(registry: Registry, tmp_path: Path) -> None:
    repository = f"{registry.host}/e2e/absent"
    done = convert(f"{repository}:v1", f"oci:{tmp_path / 't'}:nydus")
    assert_refused(done, NOT_FOUND, repository, "v1")


def test_registry_that_does_not_listen(plain_layout: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    done = convert(f"oci:{plain_layout}:plain", f"{host}/e2e/x:v1")
    assert_refused(done, UNREACHABLE, host)


@pytest.mark.registry
def test_refused_login(plain_layout: Path, tmp_path: Path) -> None:
    users = tmp_path / "htpasswd"
    subprocess.run(
        ["htpasswd", "-B", "-b", "-c", str(users), "someone", "right"],
        check=True,
        capture_output=True,
    )
    logins = tmp_path / "auth.json"
    access = {"htpasswd": {"realm": "here", "path": str(users)}}
    with start_registry(tmp_path / "registry", auth=access) as server:
        login = base64.b64encode(b"someone:wrong-secret").decode()
        logins.write_text(json.dumps({"auths": {server.host: {"auth": login}}}))
        target = f"{server.host}/e2e/x:v1"
        done = convert(f"oci:{plain_layout}:plain", target, "--auth-file", logins)
        assert_refused(done, ACCESS, server.host)
        assert "wrong-secret" not in done.stderr
        assert login not in done.stderr


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    mounts.mount("tmpfs", place, "tmpfs", data=f"size={size}")
    try:
        yield place
    finally:
        mounts.umount(place)


@pytest.mark.root
def test_full_work_directory(plain_layout: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with small_disk(tmp_path / "disk", "512k") as disk:
        done = convert(f"oci:{plain_layout}:plain", f"oci:{target}:nydus", "--work-dir", disk)
        assert list(disk.iterdir()) == []
    assert_refused(done, STORAGE, "No space left")
    assert tags_of(target) == []


@pytest.mark.root
def test_full_target(plain_layout: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        done = convert(f"oci:{plain_layout}:plain", f"oci:{disk / 'target'}:nydus")
        assert tags_of(disk / "target") == []
    assert_refused(done, STORAGE, "No space left")


@pytest.mark.root
@pytest.mark.parametrize("lacking", [4, 8, 12, 16, 40, 2000])
def test_full_archive_target(plain_layout: Path, tmp_path: Path, lacking: int) -> None:
    """Full at any moment, the last flush included; `lacking` KiB of what the archive takes."""
    whole = tmp_path / "image.tar"
    convert(f"oci:{plain_layout}:plain", f"docker-archive:{whole}")
    room = -(-whole.stat().st_size // 4096) * 4 - lacking
    with small_disk(tmp_path / "disk", f"{room}k") as disk:
        done = convert(f"oci:{plain_layout}:plain", f"docker-archive:{disk / 'image.tar'}")
        assert list(disk.iterdir()) == []
    assert_refused(done, STORAGE, "No space left")


@pytest.mark.root
def test_read_only_target(plain_layout: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        mounts.mount(None, disk, None, mounts.MS_REMOUNT | mounts.MS_RDONLY)
        for target in (f"oci:{disk}/new/layout:x", f"docker-archive:{disk}/image.tar"):
            done = convert(f"oci:{plain_layout}:plain", target)
            assert_refused(done, STORAGE, "ead-only file system")


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.overlay
def test_container_that_fills_the_disk(nydus_layout: Path, tmp_path: Path) -> None:
    """It is removed all the same, and with it what fills the disk."""
    with small_disk(tmp_path / "disk", "16m") as disk:
        script = "cat /dev/zero > /full; cat /etc/motd"
        done = call(
            "lazyrun", "run", "--rm", "--root", disk, f"oci:{nydus_layout}:nydus", script
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "replaced\n")
        assert list((disk / "store/snapshots").iterdir()) == []
        assert list((disk / "nydus-fs").iterdir()) == []


@pytest.mark.registry
def test_nothing_is_tagged_after_a_failure(damaged: Path, registry: Registry) -> None:
    layer = layer_path(damaged, "plain", 1)
    flip_byte(layer, layer.stat().st_size - 100)
    target = f"{registry.host}/e2e/half:v1"
    assert convert(f"oci:{damaged}:plain", target).returncode in (3, VERIFY)
    done = convert(target, f"oci:{damaged.parent / 't'}:x")
    assert_refused(done, NOT_FOUND, registry.host, "v1")


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.overlay
class TestLazily:
    """The same for an image that is mounted lazily."""

    @pytest.fixture
    def damaged(self, nydus_layout: Path, tmp_path: Path) -> Path:
        return shutil.copytree(nydus_layout, tmp_path / "damaged")

    def test_bootstrap_with_another_digest(self, damaged: Path, tmp_path: Path) -> None:
        flip_byte(layer_path(damaged, "nydus", -1), 40)
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        done = call(
            "nydus-fs", "mount", f"oci:{damaged}:nydus", mountpoint, "--cache-dir", tmp_path / "c"
        )
        assert_refused(done, VERIFY, "sha256:")
        assert not mountpoint.is_mount()

    def test_chunk_with_another_digest_is_an_io_error(self, damaged: Path, tmp_path: Path) -> None:
        layers = manifest_of(damaged, "nydus")["layers"]
        data = [blob_path(damaged, la["digest"]) for la in layers if la["mediaType"] == NYDUS_BLOB]
        flip_byte(data[0], 1000)
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        succeed(
            "nydus-fs", "mount", f"oci:{damaged}:nydus", mountpoint, "--cache-dir", tmp_path / "c"
        )
        try:
            with pytest.raises(OSError, match="Input/output error"):
                (mountpoint / "bin/busybox").read_bytes()
            assert (mountpoint / "etc/motd").read_bytes() == b"replaced\n"
        finally:
            succeed("nydus-fs", "umount", mountpoint)

    def test_lazyrun_has_dockers_code(self, plain_layout: Path, tmp_path: Path) -> None:
        image = f"oci:{plain_layout}:absent"
        done = call("lazyrun", "run", "--rm", "--root", tmp_path, image)
        assert_refused(done, 125, "absent")

    @pytest.mark.parametrize(("command", "code"), [("/etc/motd", 126), ("/no/such", 127)])
    def test_command_that_cannot_run(
        self, nydus_layout: Path, tmp_path: Path, command: str, code: int
    ) -> None:
        done = call(
            "lazyrun", "run", "--rm", "--root", tmp_path, "--entrypoint", command,
            f"oci:{nydus_layout}:nydus",
        )  # fmt: skip
        assert_refused(done, code, command)
