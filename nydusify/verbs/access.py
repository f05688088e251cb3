"""The options of all verbs about how images are reached: registries, logins, containerd."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fs.registry.store import StoreOptions


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("registries and containerd")
    group.add_argument("--plain-http", action="store_true", help="speak http to registries")
    group.add_argument(
        "--auth-file",
        type=Path,
        metavar="FILE",
        help="logins (default: those of docker and podman)",
    )
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust")
    group.add_argument(
        "--hosts-dir",
        metavar="DIR",
        help="mirrors and certificates of registries (default: containerd's and docker's certs.d)",
    )
    group.add_argument(
        "--containerd-address",
        metavar="SOCKET",
        help="of containerd: places (default: $CONTAINERD_ADDRESS or"
        " /run/containerd/containerd.sock)",
    )
    group.add_argument(
        "--containerd-namespace",
        metavar="NAME",
        help="of their images (default: $CONTAINERD_NAMESPACE or default)",
    )


def store_options(arguments: argparse.Namespace, *, insecure: bool = False) -> StoreOptions:
    """What the options of `add_access_arguments` say; `insecure` as in StoreOptions."""
    from fs.registry.hosts import hosts_dirs
    from fs.registry.store import StoreOptions

    return StoreOptions(
        plain_http=arguments.plain_http,
        insecure=insecure,
        auth_file=arguments.auth_file,
        ca_file=arguments.ca_file,
        hosts_dirs=hosts_dirs(arguments.hosts_dir),
        containerd_address=arguments.containerd_address or "",
        containerd_namespace=arguments.containerd_namespace or "",
        environment=os.environ,
    )
