"""The arguments that many verbs share: which image, how registries are reached, where to work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError

if TYPE_CHECKING:
    from fs.registry.platform import Platform
    from fs.registry.store import StoreOptions
    from nydusify.opened import ImagePlace


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
    blobs.add_argument("-D", "--blob-dir", metavar="DIR", help="blobs are files in DIR")
    blobs.add_argument("-b", "--blob", metavar="FILE", help="the only blob is FILE")
    blobs.add_argument(
        "--backend-config-file", metavar="FILE", help="blobs are where nydusd's configuration says"
    )
    parser.add_argument("--backend-type", metavar="TYPE", help="of the backend in that file")


def add_access(parser: argparse.ArgumentParser) -> None:
    """How registries are reached."""
    add = parser.add_argument
    add("--platform", metavar="OS/ARCH", help="of an image for several (default: this machine's)")
    add("--plain-http", action="store_true", help="speak http to registries")
    add("--insecure", action="store_true", help="do not check certificates, and allow http")
    add("--auth-file", type=Path, metavar="FILE", help="logins (default: docker's and podman's)")
    add("--ca-file", type=Path, metavar="FILE", help="certificates to trust")
    add("--hosts-dir", metavar="DIR", help="mirrors (default: containerd's and docker's certs.d)")


def add_both_insecure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source-insecure", action="store_true", help="--insecure for the source")
    parser.add_argument("--target-insecure", action="store_true", help="the same for the target")


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="temporary files (default: $TMPDIR, /var/tmp)"
    )


def work_dir(arguments: argparse.Namespace) -> Path | None:
    temporary = os.environ.get("TMPDIR")
    return arguments.work_dir or (Path(temporary) if temporary else None)


def store_options(arguments: argparse.Namespace, side: str = "") -> StoreOptions:
    """`side` is "source" or "target" where a verb has both."""
    from fs.registry.hosts import hosts_dirs
    from fs.registry.store import StoreOptions

    return StoreOptions(
        plain_http=arguments.plain_http,
        insecure=arguments.insecure or getattr(arguments, f"{side}_insecure", False),
        auth_file=arguments.auth_file,
        ca_file=arguments.ca_file,
        hosts_dirs=hosts_dirs(arguments.hosts_dir),
        environment=os.environ,
    )


def platform(arguments: argparse.Namespace) -> Platform | None:
    from fs.registry.platform import parse_platform

    return None if arguments.platform is None else parse_platform(arguments.platform)


def image_place(arguments: argparse.Namespace, name: str | None = None) -> ImagePlace:
    """The image that the arguments of `add_image` name; UsageError unless it is one."""
    from nydusify.opened import ImagePlace

    given = [name, arguments.image, arguments.bootstrap, arguments.target]
    named = [each for each in given if each is not None]
    if len(named) != 1:
        raise UsageError("name one image: IMAGE or --bootstrap FILE")
    return ImagePlace(
        named[0],
        platform(arguments),
        store_options(arguments, "target"),
        blob_dir=getattr(arguments, "blob_dir", None),
        blob=getattr(arguments, "blob", None),
        backend_type=getattr(arguments, "backend_type", None),
        backend_config=getattr(arguments, "backend_config_file", None),
    )
