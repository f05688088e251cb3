"""Nydus's own client against our daemon, and our documents beside nydusd's.

The programs are those of NYDUS_BIN, or of the PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.api.client import Client
from tests.parts import leaks
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.nydusd, pytest.mark.root, pytest.mark.fuse]


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("NYDUS_BIN") or os.environ["PATH"])
    if found is None:
        pytest.fail(f"{name} is not installed; NYDUS_BIN can name its directory")
    return found


def nydusctl(client: Client, *arguments: object) -> str:
    command = [program("nydusctl"), "--sock", str(client.path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def config(client: Client) -> Path:
    path = client.here.root / "config.json"
    path.write_text(json.dumps(client.config))
    return path


def test_all_of_its_commands(client: Client, config: Path) -> None:
    where = ["--mountpoint", "/i", "--type", "rafs"]
    nydusctl(client, "mount", "--source", client.image.bootstrap, "--config", config, *where)
    for path in (client.here.state / "api/i").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.read_bytes()
    assert "/i" in nydusctl(client, "info")
    assert "Read Data:" in nydusctl(client, "metrics", "fsstats")
    assert '"localfs"' in nydusctl(client, "metrics", "backend")
    assert str(client.here.root / "cache") in nydusctl(client, "metrics", "cache")
    nydusctl(client, "set", "log-level", "info")
    nydusctl(client, "umount", "/i")
    assert not (client.here.state / "api").exists()


@pytest.fixture
def theirs(client: Client, config: Path) -> Iterator[Client]:
    """nydusd with the same image at its root."""
    root = client.here.root
    (root / "theirs").mkdir()
    command = [program("nydusd"), "--rlimit-nofile", "0", "--apisock", root / "nydusd.sock"]
    command += ["--bootstrap", client.image.bootstrap, "--config", config]
    with (root / "nydusd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [*map(str, command), "--mountpoint", str(root / "theirs")], stdout=log, stderr=log
        )
    try:
        eventually(lambda: os.path.ismount(root / "theirs"), "nydusd mounts")
        yield Client(root / "nydusd.sock", client.here, client.image)
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
        leaks.detach(leaks.mounts_below(root / "theirs"))


def test_documents_have_the_same_shape(client: Client, theirs: Client) -> None:
    client.mount("/i")
    for target in (
        "/api/v1/daemon",
        "/api/v2/daemon",
        "/api/v1/daemon/events",
        "/api/v1/metrics",
        "/api/v1/metrics/backend",
        "/api/v1/metrics/blobcache",
    ):
        assert shape(client.get(target)) == shape(theirs.get(target)), target
    ours = client.get("/api/v1/daemon/backend?mountpoint=/i")
    other = theirs.get("/api/v1/daemon/backend?mountpoint=/")
    forever = dict.fromkeys(("attr_timeout", "entry_timeout"))
    assert ours | forever == other | forever
    client.umount("/i")


def shape(document: Any, name: str = "") -> Any:  # noqa: ANN401
    """The names in a document, at every depth that both daemons fill in their own way."""
    if not isinstance(document, dict):
        return None
    if name == "backend_collection":
        return [shape(each) for each in document.values()]
    return {key: shape(each, key) for key, each in document.items() if key != "localfs"}


def test_refusals_are_theirs(client: Client, theirs: Client) -> None:
    for method, target in (
        ("GET", "/api/v1/nothing"),
        ("POST", "/api/v1/daemon"),
        ("GET", "/api/v1/metrics?id=no"),
        ("GET", "/api/v1/metrics/backend?id=no"),
        ("GET", "/api/v1/daemon/backend"),
        ("GET", "/api/v1/daemon/backend?mountpoint=/no"),
        ("DELETE", "/api/v1/mount"),
        ("DELETE", "/api/v1/mount?mountpoint=/nope"),
        ("PUT", "/api/v1/daemon/start"),
        ("GET", "/api/v1/metrics/files?id=no"),
        ("GET", "/api/v1/metrics/pattern?id=no"),
        ("GET", "/api/v1/metrics/blobcache?id=no"),
    ):
        assert client.ask(method, target) == theirs.ask(method, target), target
