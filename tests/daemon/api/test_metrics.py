"""Figures are those of what really happened."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fs.daemon import launch
from fs.daemon.counting import Counting
from fs.daemon.metrics import Counters, Family, Traffic, exposition
from fs.daemon.session import Session
from fs.drivers import wire
from fs.drivers.flat import FlatFiles
from fs.drivers.instances import Instances
from fs.format.errors import NotFoundError
from fs.image.tree import Image
from tests.daemon.api.client import Client
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]

LINE = re.compile(r'^[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*\})? [0-9.e+-]+$')


def test_counts_of_a_mount(client: Client, tree: Path) -> None:
    client.here.mount(client.image, driver="fuse", prefetch="none")
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        (client.here.mountpoint / path.relative_to(tree)).read_bytes()
    size = sum({path.stat().st_ino: path.stat().st_size for path in files}.values())
    told = client.get("/api/v1/metrics")
    assert told["data_read"] >= size
    assert told["fop_hits"][4] == sum(told["block_count_read"]) == sum(told["read_latency_dist"])
    assert told["fop_hits"][9] >= len(files)  # lookups
    assert told["fop_errors"][4] == 0
    eventually(lambda: client.get("/api/v1/metrics")["nr_opens"] == 0, "all files are closed")
    backend = client.get("/api/v1/metrics/backend")
    assert backend["backend_type"] == "localfs"
    assert backend["read_count"] == sum(backend["read_count_block_size_dist"]) > 0
    status = client.here.status()
    assert backend["read_amount_total"] == status["fetched_bytes"]
    cache = client.get("/api/v1/metrics/blobcache")
    assert cache["partial_hits"] + cache["whole_hits"] == cache["total"] > 0
    assert cache["entries_count"] == status["cached_chunks"]
    assert client.get("/api/v1/metrics/files") == {}
    assert client.get("/api/v1/metrics/pattern") == []
    client.here.unmount()


def test_prefetch_is_told_apart(client: Client) -> None:
    client.here.mount(client.image, prefetch="all")
    eventually(
        lambda: client.get("/api/v1/metrics/blobcache")["data_all_ready"], "everything is here"
    )
    told = client.get("/api/v1/metrics/blobcache")
    assert told["prefetch_data_amount"] > 0
    assert told["prefetch_begin_time_secs"] <= told["prefetch_end_time_secs"]
    client.here.unmount()


def test_prometheus_can_read_it(client: Client) -> None:
    where = client.mount("/i")
    os.listdir(where)
    text = client.get("/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not LINE.match(line)] == []
    assert "nydus_fs_instances 1" in lines
    names = [line.split("{")[0].split()[0] for line in lines]
    assert sorted(set(names)) == sorted(dict.fromkeys(names))  # families are not interleaved
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} >= {*names}
    client.umount("/i")


def test_counts_of_what_is_gone_are_forgotten(client: Client) -> None:
    client.mount("/i")
    client.umount("/i")
    eventually(lambda: 'mountpoint="/i"' not in client.get("/metrics"), "no series stays")
    assert launch.all_status(str(client.here.state)) == []


def test_nothing_is_kept_of_what_is_gone() -> None:
    instances = Instances()
    traffic = Session(instances, lambda number: None, lambda number: None).traffic
    counting = Counting(instances, traffic)
    inode = Instances.first_inode(3)
    instances.add_tree(3, b"3", FlatFiles(_no_image))
    counting.asked(wire.GETATTR, inode)
    assert traffic.of(3).hits[0] == 1
    instances.remove_tree(3)
    assert traffic.known(3) is None
    counting.asked(wire.FORGET, inode)
    assert traffic.known(3) is None


def _no_image(number: int) -> Image:
    raise NotFoundError(f"instance {number}")


def test_texts_are_escaped() -> None:
    family = Family("a_total", "counter", "x", [({"b": 'q"\\\n'}, 1)])
    assert exposition([family]).splitlines()[-1] == 'a_total{b="q\\"\\\\\\n"} 1'


def test_buckets() -> None:
    counters = Counters()
    for size, seconds in ((0, 0.0), (1023, 0.0002), (1024, 0.0003), (1 << 20, 2.1)):
        counters.read(size, seconds)
    assert counters.reads_by_size == [2, 1, 0, 0, 0, 0, 0, 1]
    assert counters.reads_by_latency == [2, 1, 0, 0, 0, 0, 0, 1]
    assert counters.data_read == 1023 + 1024 + (1 << 20)


def test_reads_under_way() -> None:
    traffic = Traffic()
    ticket, _ = traffic.begin_read(7)
    [told] = traffic.under_way()
    assert (told["inode"], told["opcode"]) == (7, 15)
    traffic.end_read(ticket)
    assert traffic.under_way() == []
