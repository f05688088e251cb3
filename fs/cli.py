"""The command `nydus-fs`: its verbs, and how failures become exit codes.

A verb's module is imported once the verb is known, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from fs.commandline import (
    Parser,
    add_cache_arguments,
    add_fetch_arguments,
    add_serving_arguments,
    size,
)
from fs.format.errors import Failure
from fs.reporting import reporting

#: Of each verb, and under "" of the whole command. They stand in `--help` and are run by tests.
_EXAMPLES = {
    "": """\
  nydus-fs mount registry.example.com/app:nydus /mnt
  nydus-fs status /mnt
  nydus-fs umount /mnt
""",
    "mount": """\
  nydus-fs mount registry.example.com/app:nydus /mnt
  nydus-fs mount oci:images:nydus /mnt
  nydus-fs mount image.boot /mnt --blob-dir blobs
  nydus-fs mount --trace app.trace registry.example.com/app:nydus /mnt
""",
    "umount": """\
  nydus-fs umount /mnt
  nydus-fs umount --lazy /mnt
""",
    "status": """\
  nydus-fs status
  nydus-fs status /mnt
  nydus-fs status --json
""",
    "daemon": """\
  nydus-fs daemon --cache-size 20G
  nydus-fs daemon --stop
""",
    "cache": """\
  nydus-fs cache ls
  nydus-fs cache verify
  nydus-fs cache prune --size 10G
""",
    "cache ls": """\
  nydus-fs cache ls
  nydus-fs cache ls --json
""",
    "cache prune": """\
  nydus-fs cache prune --size 10G
  nydus-fs cache prune
""",
    "cache verify": """\
  nydus-fs cache verify
  nydus-fs cache verify --json
""",
    "trace": """\
  nydus-fs trace show app.trace
""",
    "trace show": """\
  nydus-fs trace show app.trace
  nydus-fs trace show app.trace --bootstrap image.boot
  nydus-fs trace show --json app.trace
""",
}
_SOURCE = """\
SOURCE is a registry reference, oci:DIR[:TAG], or a bootstrap file together with
--blob-dir, --backend-url or --backend-config.
"""
#: Where the directories are if no option says so.
_STATE_ROOT, _CACHE_DIR = "NYDUS_FS_STATE_ROOT", "NYDUS_FS_CACHE_DIR"


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="nydus-fs",
        description="Mount container images whose content is fetched when it is read.",
        epilog=_examples(""),
        allow_abbrev=False,
    )
    top.add_version()
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    mount = verbs.add_parser(
        "mount",
        help="mount an image",
        description="Mount an image; returns when it can be used.",
        epilog=_examples("mount") + "\n" + _SOURCE,
        allow_abbrev=False,
    )
    _add_mount_arguments(mount)
    umount = verbs.add_parser(
        "umount", help="unmount an image", epilog=_examples("umount"), allow_abbrev=False
    )
    umount.add_argument("mountpoint", metavar="MOUNTPOINT")
    umount.add_argument(
        "-l", "--lazy", action="store_true", help="detach now, end when the last user has left"
    )
    status = verbs.add_parser(
        "status", help="show what mounts do", epilog=_examples("status"), allow_abbrev=False
    )
    status.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?")
    status.add_argument("--json", action="store_true", help="as one JSON list")
    daemon = verbs.add_parser(
        "daemon",
        help="start the daemon by hand",
        description="Start the daemon that serves all mounts; it stays until it is told to stop.",
        epilog=_examples("daemon"),
        allow_abbrev=False,
    )
    _add_daemon_arguments(daemon)
    umount.add_argument("--json", action="store_true", help="say so in JSON")
    for verb in (mount, daemon):
        levels = ("debug", "info", "warning", "error")
        verb.add_argument("--log-level", choices=levels, default="info")
    for verb in (mount, umount, status, daemon):
        verb.add_argument(
            "--state-root",
            metavar="DIR",
            default=os.environ.get(_STATE_ROOT) or None,
            help=f"where mounts keep their state (${_STATE_ROOT} or, for root, /run/nydus-fs)",
        )
    cache = verbs.add_parser(
        "cache",
        help="look after fetched data",
        epilog=_examples("cache"),
        allow_abbrev=False,
    )
    _add_cache_verbs(cache)
    trace = verbs.add_parser(
        "trace",
        help="look at recorded reads",
        epilog=_examples("trace"),
        allow_abbrev=False,
    )
    _add_trace_verbs(trace)
    return top


def _examples(verb: str) -> str:
    return "examples:\n" + _EXAMPLES[verb]


def _add_daemon_arguments(daemon: argparse.ArgumentParser) -> None:
    daemon.add_argument("--foreground", action="store_true", help="serve here until told to stop")
    daemon.add_argument(
        "--cache-size",
        metavar="BYTES",
        type=size,
        help="for all mounts that do not say: what a cache directory may take on disk (20G)",
    )
    daemon.add_argument("--stop", action="store_true", help="unmount all and end the daemon")
    daemon.add_argument("--json", action="store_true", help="describe the daemon in JSON")


def _add_trace_verbs(trace: argparse.ArgumentParser) -> None:
    show = trace.add_subparsers(dest="what", metavar="WHAT", required=True).add_parser(
        "show",
        help="print a trace",
        description="Print what was touched first: seconds, blob, decoded offset, length, files.",
        epilog=_examples("trace show"),
        allow_abbrev=False,
    )
    show.add_argument("file", metavar="FILE")
    show.add_argument("--bootstrap", metavar="FILE", help="names the files, if it has moved")
    show.add_argument("--json", action="store_true", help="as one JSON map")


def _add_cache_verbs(cache: argparse.ArgumentParser) -> None:
    verbs = cache.add_subparsers(dest="cache_verb", metavar="VERB", required=True)
    ls = verbs.add_parser(
        "ls",
        help="list the blobs, the one used last first",
        epilog=_examples("cache ls"),
        allow_abbrev=False,
    )
    prune = verbs.add_parser(
        "prune",
        help="delete blobs that nobody has open",
        description="Delete blobs that nobody has open, or with --size the least recently used.",
        epilog=_examples("cache prune"),
        allow_abbrev=False,
    )
    prune.add_argument("--size", metavar="BYTES", type=size, help="free only down to so much")
    verify = verbs.add_parser(
        "verify",
        help="check all chunks",
        description="Check every chunk by its digest; wrong ones will be fetched again.",
        epilog=_examples("cache verify"),
        allow_abbrev=False,
    )
    for verb in (ls, prune, verify):
        verb.add_argument(
            "--cache-dir",
            metavar="DIR",
            default=os.environ.get(_CACHE_DIR) or None,
            help=f"where fetched data is kept (${_CACHE_DIR} or, for root, /var/lib/nydus-fs)",
        )
        verb.add_argument("--json", action="store_true", help="as JSON")


def _add_mount_arguments(mount: argparse.ArgumentParser) -> None:
    mount.add_argument("source", metavar="SOURCE")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT")
    mount.add_argument("--foreground", action="store_true", help="serve here until unmounted")
    blobs = mount.add_mutually_exclusive_group()
    blobs.add_argument("--blob-dir", metavar="DIR", help="blobs are files in DIR, named by id")
    blobs.add_argument("--backend-url", metavar="URL", help="blobs are at URL/<id>")
    blobs.add_argument(
        "--backend-config", metavar="FILE", help="blobs are where FILE says, in nydusd's JSON"
    )
    mount.add_argument(
        "--backend-type",
        choices=("s3", "registry", "localfs", "http"),
        help="what FILE describes, if it does not say so itself",
    )
    add_cache_arguments(mount)
    mount.set_defaults(cache_dir=os.environ.get(_CACHE_DIR) or None)
    mount.add_argument(
        "--amplify",
        metavar="BYTES",
        type=int,
        default=128 << 10,
        help="how much a first request takes along of what lies around it (default 131072)",
    )
    mount.add_argument("--platform", metavar="OS/ARCH", help="which image of an index")
    mount.add_argument("--plain-http", action="store_true", help="http without asking")
    mount.add_argument("--insecure", action="store_true", help="do not check certificates")
    mount.add_argument("--auth-file", metavar="FILE", help="the only place for logins")
    mount.add_argument("--ca-file", metavar="FILE", help="certificates to trust")
    mount.add_argument(
        "--hosts-dir",
        metavar="DIR",
        help="mirrors and certificates of registries (default: containerd's and docker's certs.d)",
    )
    add_fetch_arguments(mount)
    _add_serving_arguments(mount)


def _add_serving_arguments(mount: argparse.ArgumentParser) -> None:
    add_serving_arguments(mount)
    mount.add_argument("--nosuid", action="store_true", help="ignore set-user-ID bits")
    mount.add_argument("--json", action="store_true", help="describe the mount in JSON")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is the failure's, see fs/format/errors.py."""
    return reporting("nydus-fs", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        module = importlib.import_module(f"fs.verbs.{arguments.verb}")
        code: int = module.run(arguments)
    except Failure as failure:
        print(f"nydus-fs: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
