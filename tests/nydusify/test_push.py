"""Targets that refuse, vanish or break: noticed early if possible, and never half-published."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.test_convert import publish, stack
from tests.nydusify.test_failures import no_logins
from tests.parts.layers import LayerTar
from tests.parts.registry import Registry, free_port, htpasswd_auth, start_registry
from tests.parts.waiting import PATIENCE, eventually
from tests.registry.faulty import Reply, Request, start_faulty

pytestmark = [pytest.mark.registry]

ACCESS, UNREACHABLE, STORAGE = 6, 7, 8
BLOB_SIZE = 96 << 20


def convert(source: str, target: str, *options: str) -> int:
    return main(["convert", "--source", source, "--target", target, *options])


def digest_of(place: str) -> str:
    reader = open_reader(place)
    try:
        return reader.resolve(nydus=True).manifest.digest
    finally:
        reader.close()


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("nydusify: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


# --- before any work is done --------------------------------------------------------------------


def blobs_read(registry: Registry, repository: str) -> int:
    asked = registry.requests(f"/v2/{repository}/blobs/sha256:")
    return sum(int(answer.get("http.response.written", 0)) > 4096 for answer in asked)


def test_a_refused_login_is_noticed_before_converting(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{registry.host}/push/refused:1"
    publish(source, stack())
    auth = htpasswd_auth(tmp_path, "someone", "secret")
    with start_registry(tmp_path / "registry", auth=auth) as guarded:
        target = f"{guarded.host}/x/y:1"
        assert convert(source, target, "--auth-file", str(no_logins(tmp_path))) == ACCESS
        one_line(capsys, guarded.host)
        assert blobs_read(registry, "push/refused") == 0
        login = base64.b64encode(b"someone:secret").decode()
        logins = tmp_path / "logins.json"
        logins.write_text(json.dumps({"auths": {guarded.host: {"auth": login}}}))
        assert convert(source, target, "--auth-file", str(logins)) == 0
        assert blobs_read(registry, "push/refused") > 0


def test_an_unreachable_target_is_noticed_before_converting(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    source, port = f"{registry.host}/push/unreachable:1", free_port()
    publish(source, stack())
    assert convert(source, f"127.0.0.1:{port}/x/y:1", "--plain-http") == UNREACHABLE
    one_line(capsys, str(port))
    assert blobs_read(registry, "push/unreachable") == 0


def test_the_check_leaves_no_upload_behind(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(stack()[0][:-5000])
    assert convert(f"layer:{tmp_path}/l", f"{registry.host}/push/checked:1") != 0
    begun = registry.requests("/v2/push/checked/blobs/uploads/")
    assert [answer["http.request.method"] for answer in begun] == ["POST", "DELETE"]
    assert [answer["http.response.status"] for answer in begun] == [202, 204]
    uploads = registry.storage / "docker/registry/v2/repositories/push/checked/_uploads"
    assert list(uploads.glob("*/data")) == []  # what else is there the registry purges


@pytest.mark.root
def test_a_layout_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l").write_bytes(b"no layer: nobody gets as far as to read it")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", MS_RDONLY)
    try:
        assert convert(f"layer:{tmp_path}/l", f"oci:{disk}/new/layout") == STORAGE
    finally:
        umount(disk, MNT_DETACH)
    one_line(capsys, str(disk))


# --- in the middle ------------------------------------------------------------------------------


def await_upload(storage: Path, wanted: int) -> None:
    """Until so many bytes of an upload are there."""
    eventually(
        lambda: sum(size_of(path) for path in storage.rglob("_uploads/*/data")) >= wanted,
        "it is uploaded",
        pause=0.002,
    )


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_registry_killed_in_the_middle_of_a_blob(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(LayerTar().add("large", data=os.urandom(BLOB_SIZE)).tar())
    (tmp_path / "small").write_bytes(LayerTar().add("a", data=b"old").tar())
    with start_registry(tmp_path / "registry") as first:
        assert convert(f"layer:{tmp_path}/small", f"{first.host}/x/y:1") == 0
        old = digest_of(f"{first.host}/x/y:1")
        command = [sys.executable, "-m", "nydusify.cli", "convert", "--source", f"layer:{large}",
                   "--target", f"{first.host}/x/y:1", "--compressor", "none",
                   "--work-dir", str(tmp_path / "work")]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        await_upload(first.storage, 1 << 20)
        os.kill(first.pid, signal.SIGKILL)
        told = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == UNREACHABLE, told
        assert told.startswith(f"nydusify: {first.host}")
        assert told.count("\n") == 1
        assert list((tmp_path / "work").iterdir()) == []
    with start_registry(tmp_path / "registry") as again:
        assert digest_of(f"{again.host}/x/y:1") == old


def refusing(number: int, status: int, seen: list[str]) -> Callable[[Request], Reply]:
    """A registry that refuses blob `number` (from 1); `seen` are the blobs and manifests sent."""

    def behave(request: Request) -> Reply:
        if request.method == "HEAD":
            return Reply(404)
        if request.method == "POST":
            return Reply(202, {"Location": "/up"})
        if request.method == "DELETE":
            return Reply(204)
        seen.append(request.path)
        return Reply(status if len(seen) == number else 201)

    return behave


@pytest.mark.parametrize(("status", "code"), [(403, ACCESS), (413, ACCESS), (400, ACCESS)])
@pytest.mark.parametrize("number", [1, 3])
def test_a_registry_that_refuses_a_blob(
    number: int, status: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of the three blobs is the configuration; there is no manifest after a refusal."""
    (tmp_path / "l").write_bytes(LayerTar().add("a", data=b"x").tar())
    seen: list[str] = []
    with start_faulty(refusing(number, status, seen)) as server:
        assert convert(f"layer:{tmp_path}/l", f"{server.host}/x/y:1", "--plain-http") == code
    one_line(capsys, server.host, str(status))
    assert len(seen) == number
    assert not any("manifests" in path for path in seen)


def test_a_registry_that_refuses_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l").write_bytes(LayerTar().add("a", data=b"x").tar())
    seen: list[str] = []
    with start_faulty(refusing(4, 400, seen)) as server:
        assert convert(f"layer:{tmp_path}/l", f"{server.host}/x/y:1", "--plain-http") == ACCESS
    one_line(capsys, "manifest 1", "400")
    assert seen[3] == "/v2/x/y/manifests/1"
