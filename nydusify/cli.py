"""The `nydusify` command: a table of verbs, and the one place where failures become exit codes.

A verb's module is light to import: it has `add_arguments` and `run`, and loads what does the
work only inside `run`. Of the verbs only the one that is asked for is imported.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from fs.commandline import Parser
from fs.format.errors import Failure
from fs.reporting import leave, reporting
from nydusify.interruption import SIGNALLED, Interrupted, ended_at_once

#: Modules and trees have up to millions of objects and no cycles: looking for some took a sixth of
#: the time of a conversion.
_COLLECTIONS = (100_000, 50, 100)


class Command(NamedTuple):
    name: str
    module: str
    help: str


COMMANDS = (
    Command("convert", "nydusify.verbs.convert", "convert an image to a Nydus image"),
    Command("check", "nydusify.verbs.check", "check a Nydus image, and compare it with its source"),
    Command("chunkdict", "nydusify.verbs.chunkdict", "make a chunk dictionary of several images"),
    Command("commit", "nydusify.verbs.commit", "make an image of what a container has written"),
    Command("compact", "nydusify.verbs.compact", "rewrite blobs that are mostly unused"),
    Command("copy", "nydusify.verbs.copy", "copy an image between registries, layouts, archives"),
    Command("create", "nydusify.verbs.create", "build a file system as nydus-image does"),
    Command("export", "nydusify.verbs.export", "write an image as one disk image"),
    Command("inspect", "nydusify.verbs.inspect", "look at a Nydus image, or ask about details"),
    Command("merge", "nydusify.verbs.merge", "merge bootstraps of layers into one"),
    Command("pack", "nydusify.verbs.pack", "build a file system from a directory"),
    Command("build", "nydusify.verbs.pack", "the same as pack"),
    Command("slim", "nydusify.verbs.slim", "keep only the files that a traced run has read"),
    Command("stat", "nydusify.verbs.stat", "count files and chunks, and what images share"),
    Command("unpack", "nydusify.verbs.unpack", "unpack a Nydus image into a tar or a directory"),
    Command("cache", "nydusify.verbs.cache", "list or delete what is kept of converted layers"),
    Command("optimize", "nydusify.verbs.optimize", "put what the start needs into one region"),
)


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or what of it a call with `asked` as its first word needs."""
    top = Parser(
        prog="nydusify", description="Convert container images to lazy-loading Nydus images."
    )
    top.add_version()
    verbs = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        if asked not in (None, command.name):
            verbs.add_parser(command.name, help=command.help)
            continue
        module = import_module(command.module)
        verb = verbs.add_parser(
            command.name, help=command.help, description=module.__doc__, allow_abbrev=False
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 or that of the Failure (fs/format/errors.py).

    Without `argv` this process is the command, and ends.
    """
    if argv is None:
        gc.set_threshold(*_COLLECTIONS)
    code = reporting("nydusify", lambda: _main(argv))
    if argv is None:
        leave(code)
    return code


def _main(argv: Sequence[str] | None) -> int:
    try:
        with ended_at_once():
            words = _joined(sys.argv[1:] if argv is None else argv)
            arguments = parser(words[0] if words else "").parse_args(words)
            arguments.run(arguments)
    except Failure as failure:
        print(f"nydusify: {failure}", file=sys.stderr)
        return failure.exit_code
    except Interrupted as interrupted:
        print("nydusify: interrupted", file=sys.stderr)
        return SIGNALLED + interrupted.number
    return 0


def _joined(argv: Sequence[str]) -> list[str]:
    """Suffixes start with "-", which argparse takes for an option unless "=" binds them."""
    joined = list(argv)
    if "--target-suffix" in joined[:-1]:
        at = joined.index("--target-suffix")
        joined[at : at + 2] = ["=".join(joined[at : at + 2])]
    return joined


if __name__ == "__main__":
    sys.exit(main())
