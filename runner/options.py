"""How an image is mounted, by the command line of `lazyrun`. Imports little."""

from __future__ import annotations

import argparse
import os

from fs.daemon.order import MountOptions
from runner.state import DEFAULT_ROOT


def mount_options(arguments: argparse.Namespace) -> MountOptions:
    """With a root of its own, a lazyrun also has caches and daemons of its own."""
    own = os.path.realpath(arguments.root) != DEFAULT_ROOT
    state_root = os.path.join(os.path.abspath(arguments.root), "nydus-fs") if own else None
    if arguments.verb != "run":
        return MountOptions(state_root=state_root)
    cache = os.path.join(os.path.abspath(arguments.root), "cache") if own else None
    return MountOptions(
        plain_http=arguments.plain_http,
        insecure=arguments.insecure,
        platform=arguments.platform,
        auth_file=_absolute(arguments.auth_file),
        ca_file=_absolute(arguments.ca_file),
        hosts_dir=_absolute(arguments.hosts_dir),
        cache_dir=_absolute(arguments.cache_dir) or cache,
        cache_size=arguments.cache_size,
        state_root=state_root,
        outage_deadline=arguments.outage_deadline,
        prefetch=arguments.prefetch,
        prefetch_bandwidth=arguments.prefetch_bandwidth,
        trace=_absolute(arguments.trace),
        driver=arguments.driver,
    )


def _absolute(path: str | None) -> str | None:
    """The daemon need not share our directory."""
    return None if path is None else os.path.abspath(path)
