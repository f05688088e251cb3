"""`nydus-fs mount`: detached by default, or serving in the foreground."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from fs.daemon.launch import (
    Mounted,
    MountOptions,
    checked_mountpoint,
    mount,
    mounted_from,
    prepare_state,
)
from fs.daemon.order import Order
from fs.format.errors import UsageError


def run(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    source = _absolute(arguments.source)
    if arguments.foreground:
        _serve(source, arguments, options)
    else:
        _show(mount(source, arguments.mountpoint, options), arguments.json)
    return 0


def _options(arguments: argparse.Namespace) -> MountOptions:
    """The options with every path absolute: the daemon need not share our directory."""
    if arguments.outage_deadline < 0 or arguments.amplify < 0:
        raise UsageError("--outage-deadline and --amplify cannot be negative")
    if arguments.prefetch_bandwidth is not None and arguments.prefetch_bandwidth <= 0:
        raise UsageError("--prefetch-bandwidth must be more than 0")
    return MountOptions(
        plain_http=arguments.plain_http,
        insecure=arguments.insecure,
        platform=arguments.platform,
        auth_file=_path(arguments.auth_file),
        ca_file=_path(arguments.ca_file),
        cache_dir=_path(arguments.cache_dir),
        state_root=_path(arguments.state_root),
        blob_dir=_path(arguments.blob_dir),
        backend_url=arguments.backend_url,
        outage_deadline=arguments.outage_deadline,
        amplify=arguments.amplify,
        prefetch=arguments.prefetch,
        prefetch_bandwidth=arguments.prefetch_bandwidth,
        nosuid=arguments.nosuid,
        log_level=arguments.log_level,
    )


def _path(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _absolute(source: str) -> str:
    """A source in the file system does not depend on the working directory either."""
    if os.path.isfile(source):
        return os.path.abspath(source)
    for kind in ("oci:", "oci-archive:", "docker-archive:"):
        if source.startswith(kind):
            return kind + os.path.abspath(source.removeprefix(kind))
    return source


def _serve(source: str, arguments: argparse.Namespace, options: MountOptions) -> None:
    from fs.daemon.supervisor import supervise

    order = Order(source, checked_mountpoint(arguments.mountpoint), options)
    prepare_state(order)

    def announce(report: dict[str, Any]) -> None:
        _show(mounted_from(report), arguments.json)

    supervise(order, announce)


def _show(mounted: Mounted, as_json: bool) -> None:
    if as_json:
        print(json.dumps(mounted._asdict()), flush=True)
    else:
        print(mounted.mountpoint, flush=True)
