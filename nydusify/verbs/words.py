"""The arguments that many verbs share: which image, where its blobs are, how it is reached, where
to work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError

if TYPE_CHECKING:
    from fs.registry.platform import Platform
    from fs.registry.store import StoreOptions
    from nydusify.images.opened import ImagePlace
    from nydusify.report import Progress


def add_image(parser: argparse.ArgumentParser, *, blobs: bool = True) -> None:
    """The image that is read, by position or as nydus-image has it; and where its blobs are."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="reference, oci:DIR[:TAG], "
                        "oci-archive:FILE, docker-archive:FILE, or a bootstrap file")  # fmt: skip
    parser.add_argument("-B", "--bootstrap", metavar="FILE", help="the same, a bootstrap file")
    parser.add_argument("--target", metavar="IMAGE", help=argparse.SUPPRESS)
    if blobs:
        add_blobs(parser)


def add_blobs(parser: argparse.ArgumentParser) -> None:
    blobs = parser.add_mutually_exclusive_group()
    blobs.add_argument(
        "-D", "--blob-dir", "--localfs-dir", metavar="DIR", help="blobs are files in DIR"
    )
    blobs.add_argument("-b", "--blob", metavar="FILE", help="the only blob is FILE")
    blobs.add_argument(
        "--backend-config-file",
        "--target-backend-config-file",
        metavar="FILE",
        help="blobs are where nydusd's configuration says",
    )
    parser.add_argument(
        "--backend-type",
        "--target-backend-type",
        metavar="TYPE",
        help="of the backend in that file",
    )


def add_access(parser: argparse.ArgumentParser, *, sides: bool = False) -> None:
    """How images are reached. With `sides`, source and target may differ in trust."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="of an image for several platforms: this one (default: this machine's)",
    )
    trust = "do not check certificates, and allow http"
    parser.add_argument("--insecure", action="store_true", help=trust)
    if sides:
        parser.add_argument("--source-insecure", action="store_true", help="only for the source")
        parser.add_argument("--target-insecure", action="store_true", help="only for the target")
    add_access_arguments(parser)


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


def add_batch_size(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--batch-size",
        metavar="SIZE",
        help="small chunks are compressed together, up to this size, at most that of chunks"
        " (default: 1MiB); 0: each alone, for nydusd up to 2.2.0",
    )


def prefetch_patterns(lines: Iterable[str]) -> tuple[str, ...]:
    """Absolute paths, one a line; UsageError for others."""
    patterns = tuple(line.strip() for line in lines if line.strip())
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise UsageError(f"prefetch pattern {pattern!r} is not an absolute path")
    return patterns


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


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="temporary files (default: $TMPDIR, /var/tmp)"
    )


def work_dir(arguments: argparse.Namespace) -> Path | None:
    temporary = os.environ.get("TMPDIR")
    return arguments.work_dir or (Path(temporary) if temporary else None)


@contextmanager
def working() -> Iterator[Progress]:
    """Long work: its progress is shown on a terminal, and a signal ends it in order."""
    from nydusify.interruption import Unwinding
    from nydusify.report import open_progress

    with open_progress(sys.stderr) as progress:
        unwinding = Unwinding(progress)
        with unwinding.entered():
            yield unwinding


def store_of(arguments: argparse.Namespace, side: str = "") -> StoreOptions:
    """`side` is "source" or "target" where a verb has both."""
    insecure = arguments.insecure or getattr(arguments, f"{side}_insecure", False)
    return store_options(arguments, insecure=insecure)


def platform(arguments: argparse.Namespace) -> Platform | None:
    from fs.registry.platform import parse_platform

    return None if arguments.platform is None else parse_platform(arguments.platform)


def image_place(arguments: argparse.Namespace, name: str | None = None) -> ImagePlace:
    """The image that the arguments of `add_image` name; UsageError unless it is one."""
    from nydusify.images.opened import ImagePlace

    given = [name, arguments.image, arguments.bootstrap, arguments.target]
    named = [each for each in given if each is not None]
    if len(named) != 1:
        raise UsageError("name one image: IMAGE or --bootstrap FILE")
    return ImagePlace(
        named[0],
        platform(arguments),
        store_of(arguments, "target"),
        blob_dir=getattr(arguments, "blob_dir", None),
        blob=getattr(arguments, "blob", None),
        backend_type=getattr(arguments, "backend_type", None),
        backend_config=getattr(arguments, "backend_config_file", None),
    )
