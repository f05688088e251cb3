"""`nydus-fs mount`: detached by default, or serving in the foreground."""

from __future__ import annotations

import argparse
import json
import os

from fs.commandline import absolute_source
from fs.daemon.launch import Mounted, MountOptions, mount
from fs.daemon.mountpoints import checked_mountpoint
from fs.daemon.order import Order, relevant
from fs.format.errors import UsageError


def run(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    source = absolute_source(arguments.source)
    if arguments.foreground:
        _serve(source, arguments, options)
    else:
        _show(mount(source, arguments.mountpoint, options), arguments.json)
    return 0


def _options(arguments: argparse.Namespace) -> MountOptions:
    """The options with every path absolute: the daemon need not share our directory."""
    if arguments.amplify < 0:
        raise UsageError("--amplify must be 0 or more")
    if arguments.backend_type and not arguments.backend_config:
        raise UsageError("--backend-type is for --backend-config")
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
        backend_type=arguments.backend_type,
        backend_config=_path(arguments.backend_config),
        hosts_dir=_path(arguments.hosts_dir),
        outage_deadline=arguments.outage_deadline,
        amplify=arguments.amplify,
        cache_size=arguments.cache_size,
        prefetch=arguments.prefetch,
        prefetch_bandwidth=arguments.prefetch_bandwidth,
        trace=_path(arguments.trace),
        nosuid=arguments.nosuid,
        log_level=arguments.log_level,
        driver=arguments.driver,
    )


def _path(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _serve(source: str, arguments: argparse.Namespace, options: MountOptions) -> None:
    """Be a daemon for this mount alone, in the foreground."""
    from fs.daemon.foreground import serve

    target = checked_mountpoint(arguments.mountpoint)
    order = Order(source, target, options, relevant(os.environ))
    serve(order, lambda mounted: _show(mounted, arguments.json))


def _show(mounted: Mounted, as_json: bool) -> None:
    if as_json:
        print(json.dumps(mounted._asdict()), flush=True)
    else:
        print(mounted.mountpoint, flush=True)
