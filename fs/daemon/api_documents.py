"""What the HTTP API tells of a daemon and its instances, in nydusd's shapes.

Counters begin with the worker. Instances that fetch from one place share its
figures. null stands for what is not known here; keys are never told.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fs.backend.config import load_config
from fs.cache.fetch import Urgency
from fs.daemon.metrics import OPERATIONS, Family, Traffic
from fs.daemon.operations import Operations
from fs.daemon.order import default_cache_dir
from fs.daemon.roster import Served
from fs.drivers.instances import Instance
from fs.format import rafs5
from fs.format.erofs import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, unpack_superblock
from fs.format.errors import Failure
from fs.format.rafs6 import EXTENDED_OFFSET, EXTENDED_SIZE, unpack_extended

_BACKENDS = ("localdisk", "localfs", "oss", "s3", "registry", "http-proxy")
_FOREVER = {"secs": 10 * 365 * 86400, "nanos": 0}


def daemon(operations: Operations, instances: Mapping[str, Instance] | None) -> dict[str, Any]:
    """Of the daemon; with its instances, unless they are None."""
    collection = None
    if instances is not None:
        collection = {
            name: backend(operations.roster.served(each), name) for name, each in instances.items()
        }
    return {
        "version": {
            "package_ver": _version(),
            "git_commit": "unknown",
            "build_time": "unknown",
            "profile": "release",
            "rustc": "none: Python",
        },
        "id": None,
        "supervisor": None,
        "state": "STOPPED" if operations.ending else "RUNNING",
        "backend_collection": collection,
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lazyrun")
    except PackageNotFoundError:
        return "unknown"


def backend(served: Served, name: str) -> dict[str, Any]:
    begun = datetime.fromtimestamp(served.instance.mounted_at, UTC)
    return {
        "backend_type": "Rafs",
        "mountpoint": name,
        "mounted_time": f"{begun:%Y-%m-%d %H:%M:%S.%f} +00:00:00",
        "config": config(served),
    }


def config(served: Served) -> dict[str, Any]:
    """How an instance is served, as a configuration of version 2, without keys."""
    options = served.order.options
    kind = backend_type(served)
    prefetch = {
        "enable": options.prefetch_mode != "none",
        "threads": Urgency.PREFETCH.value,
        "batch_size": 0,
        "bandwidth_limit": options.prefetch_bandwidth or 0,
        "prefetch_all": options.prefetch_mode == "all",
    }
    return {
        "version": 2,
        "id": "",
        "backend": {"type": kind, **dict.fromkeys(_BACKENDS), kind: _place(served)},
        "cache": {
            "type": "blobcache",
            "compressed": False,
            "validate": True,
            "prefetch": prefetch,
            "filecache": {
                "work_dir": options.cache_dir or default_cache_dir(),
                "disable_indexed_map": False,
            },
            "fscache": None,
        },
        "rafs": {
            "mode": "direct",
            "batch_size": options.amplify,
            "validate": True,
            "enable_xattr": True,
            "iostats_files": False,
            "access_pattern": False,
            "latest_read_files": False,
            "prefetch": prefetch,
        },
    }


def backend_type(served: Served) -> str:
    """By nydusd's names; an image of no registry is a directory's."""
    options = served.order.options
    if options.blob_dir:
        return "localfs"
    if options.backend_url:
        return "http-proxy"
    if options.backend_config:
        try:
            return load_config(options.backend_config, options.backend_type).kind
        except Failure:
            return "unknown"
    kind, separator, _ = served.order.source.partition(":")
    return "localfs" if separator and kind in ("oci", "dir", "oci-archive") else "registry"


def _place(served: Served) -> dict[str, Any] | None:
    options = served.order.options
    if options.blob_dir:
        return {"dir": options.blob_dir}
    if not options.backend_config:
        return None
    try:
        fields = load_config(options.backend_config, options.backend_type).fields
    except Failure:
        return None
    shown = ("dir", "blob_file", "host", "repo", "scheme", "bucket_name", "region")
    return {name: fields[name] for name in shown if name in fields}


def superblock(served: Served) -> dict[str, Any]:
    """nydusd's RafsSuperMeta of an instance. OSError when its bootstrap cannot be read."""
    with open(served.resolved.bootstrap, "rb") as file:
        head = memoryview(file.read(EXTENDED_OFFSET + EXTENDED_SIZE))
    image = served.instance.image
    told = _superblock5(head) if image.bootstrap.version == 5 else _superblock6(head)
    return {
        "sb_size": 0,
        "root_inode": 0,
        "inodes_count": image.inode_count,
        "inode_table_entries": 0,
        "inode_table_offset": 0,
        "extended_blob_table_offset": 0,
        "extended_blob_table_entries": 0,
        "attr_timeout": _FOREVER,
        "entry_timeout": _FOREVER,
        "is_chunk_dict": False,
        "meta_blkaddr": 0,
        "root_nid": 0,
        "chunk_table_offset": 0,
        "chunk_table_size": 0,
    } | told


def _superblock6(head: memoryview) -> dict[str, Any]:
    erofs = unpack_superblock(head[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE])
    extended = unpack_extended(head[EXTENDED_OFFSET : EXTENDED_OFFSET + EXTENDED_SIZE])
    return {
        "magic": erofs.magic,
        "version": 0x600,
        "chunk_size": extended.chunk_size,
        "flags": {"bits": extended.flags},
        "blob_table_size": extended.blob_table_size,
        "blob_table_offset": extended.blob_table_offset,
        "prefetch_table_offset": extended.prefetch_table_offset,
        "prefetch_table_entries": extended.prefetch_table_size // 4,
        "meta_blkaddr": erofs.meta_blkaddr,
        "root_nid": erofs.root_nid,
        "chunk_table_offset": extended.chunk_table_offset,
        "chunk_table_size": extended.chunk_table_size,
    }


def _superblock5(head: memoryview) -> dict[str, Any]:
    found = rafs5.Superblock._make(rafs5.SUPERBLOCK.unpack_from(head))
    return {
        "magic": int.from_bytes(found.magic, "little"),
        "version": found.version,
        "sb_size": found.sb_size,
        "root_inode": 1,
        "chunk_size": found.chunk_size,
        "flags": {"bits": found.flags},
        "inode_table_entries": found.inode_table_entries,
        "inode_table_offset": found.inode_table_offset,
        "blob_table_size": found.blob_table_size,
        "blob_table_offset": found.blob_table_offset,
        "extended_blob_table_offset": found.extended_offset,
        "extended_blob_table_entries": found.extended_entries,
        "prefetch_table_offset": found.prefetch_offset,
        "prefetch_table_entries": found.prefetch_entries,
    }


def backend_metrics(served: Served) -> dict[str, Any]:
    tally = served.shared.origin.fetcher.tally
    return {
        "backend_type": backend_type(served),
        "read_count": tally.reads,
        "read_errors": tally.errors,
        "read_amount_total": tally.amount,
        "read_cumulative_latency_millis_total": int(tally.millis),
        "read_cumulative_latency_millis_dist": [int(millis) for millis in tally.millis_by_size],
        "read_count_block_size_dist": tally.reads_by_size,
        "read_latency_sizes_dist": tally.reads_by_size_and_latency,
    }


def cache_metrics(served: Served) -> dict[str, Any]:
    image = served.instance.image
    caches = image.opened_blobs()
    reads, hits = sum(cache.reads for cache in caches), sum(cache.hits for cache in caches)
    tally = served.shared.origin.fetcher.tally
    under_way = served.prefetch.status()["state"] in ("table", "all")
    begun, ended = tally.prefetch_began or 0.0, tally.prefetch_ended or 0.0
    return {
        "underlying_files": [cache.blob.blob_id for cache in caches],
        "store_path": os.path.join(served.order.options.cache_dir or default_cache_dir(), "blobs"),
        "partial_hits": reads - hits,
        "whole_hits": hits,
        "total": reads,
        "entries_count": sum(cache.counts()["cached"] for cache in caches),
        "prefetch_data_amount": tally.prefetch_amount,
        "prefetch_requests_count": tally.prefetch_requests,
        "prefetch_workers": Urgency.PREFETCH.value if under_way else 0,
        "prefetch_unmerged_chunks": None,
        "prefetch_cumulative_time_millis": int(tally.prefetch_millis),
        "prefetch_begin_time_secs": int(begun),
        "prefetch_begin_time_millis": int(begun * 1000) % 1000,
        "prefetch_end_time_secs": int(ended),
        "prefetch_end_time_millis": int(ended * 1000) % 1000,
        "buffered_backend_size": None,
        "data_all_ready": image.is_local(),
    }


# -- Prometheus -----------------------------------------------------------------------------


def families(
    operations: Operations, traffic: Traffic, instances: Mapping[str, Instance]
) -> list[Family]:
    """All that Prometheus is told. Names are those of docs/operations.md."""
    served = {name: operations.roster.served(instance) for name, instance in instances.items()}
    origins = {_origin(each): each for each in served.values()}
    return [
        Family("nydus_fs_instances", "gauge", "Mounted images.", [({}, len(served))]),
        Family(
            "nydus_fs_worker_generation",
            "gauge",
            "Workers of this daemon before the one that answers.",
            [({}, operations.identity.generation)],
        ),
        Family("nydus_fs_instance_info", "gauge", "Which image is where.", _infos(served)),
        *_traffic_families(traffic, instances),
        *_cache_families(served),
        *_origin_families(origins),
    ]


def _infos(served: Mapping[str, Served]) -> list[tuple[Mapping[str, str], float]]:
    return [
        (
            {
                "mountpoint": name,
                "source": each.order.source,
                "transport": each.instance.driver,
                "origin": _origin(each),
            },
            1,
        )
        for name, each in served.items()
    ]


def _origin(served: Served) -> str:
    """A name that says nothing of the place but whether it is the same."""
    return hashlib.sha256(repr(served.shared.origin_key).encode()).hexdigest()[:8]


def _traffic_families(traffic: Traffic, instances: Mapping[str, Instance]) -> list[Family]:
    of = {name: traffic.of(instance.number) for name, instance in instances.items()}
    return [
        _per_operation(
            "nydus_fs_operations_total",
            "Requests of the kernel.",
            {name: counters.hits for name, counters in of.items()},
        ),
        _per_operation(
            "nydus_fs_operation_errors_total",
            "Requests of the kernel that were answered with an error.",
            {name: counters.errors for name, counters in of.items()},
        ),
        _per_mount(
            "nydus_fs_read_bytes_total",
            "Bytes given to the kernel.",
            {name: counters.data_read for name, counters in of.items()},
        ),
        _per_mount(
            "nydus_fs_read_seconds_total",
            "Time that the kernel's reads took.",
            {name: counters.read_seconds for name, counters in of.items()},
        ),
    ]


def _per_operation(name: str, text: str, counts: Mapping[str, Sequence[int]]) -> Family:
    """Those that were not asked for are left out."""
    return Family(
        name,
        "counter",
        text,
        [
            ({"mountpoint": at, "operation": kind.lower()}, count)
            for at, each in counts.items()
            for kind, count in zip(OPERATIONS, each, strict=False)
            if count
        ],
    )


def _per_mount(name: str, text: str, values: Mapping[str, float], kind: str = "counter") -> Family:
    return Family(name, kind, text, [({"mountpoint": at}, values[at]) for at in values])


def _cache_families(served: Mapping[str, Served]) -> list[Family]:
    blobs = {name: each.instance.image.opened_blobs() for name, each in served.items()}
    return [
        _per_mount(
            "nydus_fs_cache_reads_total",
            "Reads of cached blobs; equal mounts share them.",
            {name: sum(cache.reads for cache in caches) for name, caches in blobs.items()},
        ),
        _per_mount(
            "nydus_fs_cache_hits_total",
            "Those that found all of their chunks here.",
            {name: sum(cache.hits for cache in caches) for name, caches in blobs.items()},
        ),
        _per_mount(
            "nydus_fs_chunks",
            "Chunks of the blobs opened so far.",
            {name: sum(len(cache.table) for cache in caches) for name, caches in blobs.items()},
            "gauge",
        ),
        _per_mount(
            "nydus_fs_cached_chunks",
            "Those that are here.",
            {
                name: sum(cache.counts()["cached"] for cache in caches)
                for name, caches in blobs.items()
            },
            "gauge",
        ),
    ]


def _origin_families(origins: Mapping[str, Served]) -> list[Family]:
    fetchers = {name: each.shared.origin.fetcher for name, each in origins.items()}
    return [
        Family(name, "counter", text, [({"origin": at}, value) for at, value in values.items()])
        for name, text, values in (
            (
                "nydus_fs_backend_requests_total",
                "Requests to where blobs come from.",
                {at: fetcher.requests for at, fetcher in fetchers.items()},
            ),
            (
                "nydus_fs_backend_failures_total",
                "Those that failed.",
                {at: fetcher.failures for at, fetcher in fetchers.items()},
            ),
            (
                "nydus_fs_backend_bytes_total",
                "What they brought.",
                {at: fetcher.bytes_fetched for at, fetcher in fetchers.items()},
            ),
            (
                "nydus_fs_prefetched_bytes_total",
                "What nobody waited for.",
                {at: fetcher.tally.prefetch_amount for at, fetcher in fetchers.items()},
            ),
        )
    ]
