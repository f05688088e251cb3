"""nydusd's HTTP API: documents, refusals, mounts."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fs.daemon import launch
from tests.daemon.api.client import Client
from tests.daemon.mounting import is_alive
from tests.parts.trees import differences, scan
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_only_the_owner_may_open_the_socket(client: Client) -> None:
    assert stat.S_IMODE(client.path.stat().st_mode) == 0o600


def test_mount_read_umount(client: Client, tree: Path) -> None:
    where = client.mount("/some/image")
    assert differences(scan(tree), scan(where)) == []
    told = client.get("/api/v1/daemon")
    assert told["state"] == "RUNNING"
    [(name, backend)] = told["backend_collection"].items()
    assert name == backend["mountpoint"] == "/some/image"
    assert backend["backend_type"] == "Rafs"
    assert backend["config"]["backend"]["localfs"] == {"dir": str(client.image.blobs)}
    client.umount("/some/image")
    assert client.get("/api/v1/daemon")["backend_collection"] == {}
    assert not (client.here.state / "api").exists()
    assert not (client.here.state / "api.config").exists()


def test_configurations_are_private_and_not_told(client: Client) -> None:
    config = client.config
    config["device"]["backend"]["config"]["secret_key"] = "hunter2"
    order = client.order | {"config": json.dumps(config)}
    assert client.ask("POST", "/api/v1/mount?mountpoint=/i", order)[0] == 204
    [kept] = (client.here.state / "api.config").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for target in ("/api/v1/daemon", "/api/v1/config?id=/i", "/metrics"):
        assert "hunter2" not in json.dumps(client.get(target))
    client.umount("/i")


def test_mounts_of_our_command_are_there_too(client: Client) -> None:
    client.here.mount(client.image)
    mountpoint = str(client.here.mountpoint)
    assert list(client.get("/api/v1/daemon")["backend_collection"]) == [mountpoint]
    assert client.get(f"/api/v1/metrics?id={mountpoint}")["id"] == mountpoint
    client.umount(mountpoint)
    assert not os.path.ismount(mountpoint)
    assert launch.all_status(str(client.here.state)) == []


def test_mounts_live_on_when_the_worker_is_replaced(client: Client, tree: Path) -> None:
    where = client.mount("/i")
    [status] = launch.all_status(str(client.here.state))
    os.kill(status["worker_pid"], 9)
    eventually(lambda: client.get("/metrics").count("generation 1\n"), "the next worker answers")
    assert differences(scan(tree), scan(where)) == []
    client.umount("/i")


def test_exit_ends_the_daemon(client: Client) -> None:
    client.mount("/i")
    pid = launch.all_status(str(client.here.state))[0]["pid"]
    assert client.ask("PUT", "/api/v1/daemon/exit") == (204, None)
    eventually(lambda: not is_alive(pid), "the daemon ends")
    assert not client.path.exists()
    assert not (client.here.state / "api").exists()
    assert not (client.here.state / "api.config").exists()


def test_superblock(client: Client) -> None:
    client.mount("/i")
    told = client.get("/api/v1/daemon/backend?mountpoint=/i")
    assert (told["magic"], told["version"]) == (0xE0F5E1E2, 0x600)
    assert told["inodes_count"] > 1
    client.umount("/i")


def test_documents_without_instances(client: Client) -> None:
    assert client.get("/api/v2/daemon")["backend_collection"] is None
    events = client.get("/api/v1/daemon/events")
    assert (events["max_errors"], events["errors"]) == (500, [])
    assert client.ask("GET", "/api/v1/metrics/inflight") == (204, None)
    assert client.ask("PUT", "/api/v1/daemon", {"log_level": "debug"}) == (204, None)


def test_failed_mounts_are_events_and_leave_nothing(client: Client) -> None:
    order = client.order | {"source": "/no/such/bootstrap"}
    status, told = client.ask("POST", "/api/v1/mount?mountpoint=/i", order)
    assert status == 500
    assert told["message"].startswith("Mount(MountFilesystem(Other(")
    [error] = client.get("/api/v1/daemon/events")["errors"]
    assert "/no/such/bootstrap" in error
    assert not (client.here.state / "api").exists()
    assert not (client.here.state / "api.config").exists()


NO_COUNTER = "Metrics(Stats(NoCounter))"


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "message"),
    [
        ("GET", "/nothing", None, 404, "NoRoute"),
        ("POST", "/api/v1/daemon", None, 400, "BadRequest"),
        ("GET", "/api/v1/metrics?id=/no", None, 404, f"GlobalMetrics({NO_COUNTER})"),
        ("GET", "/api/v1/metrics/backend", None, 404, f"BackendMetrics({NO_COUNTER})"),
        ("GET", "/api/v1/config?id=/no", None, 404, f"Config({NO_COUNTER})"),
        ("PUT", "/api/v1/daemon/start", None, 400, 'UnexpectedEvent("Start")'),
        ("PUT", "/api/v1/daemon/fuse/sendfd", None, 400, "Upgrade("),
        ("GET", "/api/v1/daemon/backend", None, 400, "'mountpoint' should be specified"),
        ("GET", "/api/v1/daemon/backend?mountpoint=/no", None, 500, "doesn't exist"),
        ("DELETE", "/api/v1/mount?mountpoint=/no", None, 500, "doesn't exist"),
        ("POST", "/api/v1/mount?mountpoint=/i", {}, 400, "missing field `source`"),
        ("POST", "/api/v1/mount?mountpoint=/i", [], 400, "missing field `source`"),
        ("PUT", "/api/v1/daemon", {"log_level": "loud"}, 400, "log level"),
        ("PUT", "/api/v1/daemon", "text", 400, "missing field `log_level`"),
    ],
)
def test_refusals(
    client: Client, method: str, target: str, body: object, status: int, message: str
) -> None:
    got, told = client.ask(method, target, body)
    assert got == status
    assert set(told) == {"code", "message"}
    assert message in told["message"]


@pytest.mark.parametrize("name", ["/../x", "/", "x", "/a/../../x", "/x%00y", "/./"])
def test_no_mountpoint_leads_out_of_the_directory(client: Client, name: str) -> None:
    status, told = client.ask("POST", f"/api/v1/mount?mountpoint={name}", client.order)
    assert status == 500
    assert "invalid mountpoint" in told["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"fs_type": "passthrough_fs"},
        {"config": "garbage"},
        {"config": "[]"},
        {"config": '{"device": 1}'},
        {"config": '{"device": {"cache": {"config": {"work_dir": "relative"}}}}'},
        {"config": '{"device": {}, "amplify_io": -1}'},
        {"config": "{}"},
    ],
)
def test_orders_that_make_no_sense(client: Client, change: dict[str, Any]) -> None:
    status, _ = client.ask("POST", "/api/v1/mount?mountpoint=/i", client.order | change)
    assert status == 500
    assert client.get("/api/v1/daemon")["backend_collection"] == {}


def test_a_mount_is_not_replaced_by_another(client: Client) -> None:
    client.mount("/i")
    target = "/api/v1/mount?mountpoint=/i"
    assert "already exists" in client.ask("POST", target, client.order)[1]["message"]
    assert client.ask("PUT", target, client.order) == (204, None)
    assert client.ask("PUT", target, client.order | {"source": "/other"})[0] == 500
    client.umount("/i")


def test_a_mount_inside_of_a_mount_is_refused_and_blocks_nobody(client: Client) -> None:
    client.mount("/i")
    status, told = client.ask("POST", "/api/v1/mount?mountpoint=/i/no/such", client.order)
    assert (status, "Read-only" in told["message"]) == (500, True)
    assert client.get("/api/v1/daemon")["state"] == "RUNNING"
    client.umount("/i")


def test_texts_that_no_file_name_can_hold(client: Client) -> None:
    for change in ({"source": "a\0b"}, {"source": "\ud800"}, {"config": '{"a": "\ud800"}'}):
        order = client.order | change
        assert client.ask("POST", "/api/v1/mount?mountpoint=/i", order)[0] == 500
    assert client.get("/api/v1/daemon")["backend_collection"] == {}
