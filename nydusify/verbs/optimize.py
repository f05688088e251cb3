"""Make an image whose start-up set is one region, fetched at once when the image is mounted.

What belongs to the set is taken from a trace (`nydus-fs mount --trace`), from a list of
files, found out by starting the image (--record) until it is ready, or guessed from its
files and configuration (--guess), for the image's command or for what follows --. The set
is copied to a blob of its own; all other blobs stay as they are.

examples:
  nydusify optimize --source reg.example.com/app:nydus --target reg.example.com/app:fast \\
    --record --ready-port 80
  nydusify optimize --source oci:images:nydus --target oci:images:fast --trace app.trace
  nydusify optimize --source oci:images:gcc --target oci:images:fast --guess -- gcc -o /a /a.c
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError
from nydusify.verbs import words

if TYPE_CHECKING:
    from nydusify.operations.optimization import OptimizeOptions
    from nydusify.startup.readiness import Ready
    from nydusify.startup.recording import Recording

#: Of zstd: the set is packed once, and every start fetches it whole. Figures in docs/choices.md.
LEVEL, _MAX_LEVEL = 18, 19
_POLICY = "separated-blob-with-prefetch-files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", required=True, metavar="IMAGE", help="a Nydus image")
    add("--target", required=True, metavar="IMAGE", help="where the optimized image goes")
    sets = parser.add_mutually_exclusive_group(required=True)
    sets.add_argument("--trace", type=Path, metavar="FILE", help="a trace of the image's start")
    sets.add_argument("--prefetch-files", type=Path, metavar="FILE",
                      help="paths, one a line, or nydus-image's JSON with ranges")  # fmt: skip
    sets.add_argument("--record", action="store_true", help="start the image, and see")
    sets.add_argument("--guess", action="store_true", help="from what its files say")
    _add_record(parser)
    add("--policy", default=_POLICY, choices=(_POLICY,), help="as nydusify has it; the only one")
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N",
        help="threads that compress (default: %(default)s)")  # fmt: skip
    add("--level", type=int, default=LEVEL, metavar="N",
        help=f"of zstd for the start-up set, 1 to {_MAX_LEVEL} (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print the figures as JSON")
    add("--output-json", type=Path, metavar="FILE", help="write the figures here")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def _add_record(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what --record starts, and when it is ready")
    ready = group.add_mutually_exclusive_group()
    ready.add_argument("--ready-exit", action="store_true", help="it ends with 0 (the default)")
    ready.add_argument("--ready-log", metavar="PATTERN", help="it prints a line that matches")
    ready.add_argument("--ready-port", type=int, metavar="N", help="the TCP port N accepts")
    ready.add_argument("--ready-seconds", type=float, metavar="S", help="so long after its start")
    group.add_argument("--timeout", type=float, default=300.0, metavar="S",
                       help="how long it may take (default: %(default)g)")  # fmt: skip
    group.add_argument("--keep-trace", type=Path, metavar="FILE", help="keep the trace here")
    group.add_argument("--run-option", action="append", default=[], metavar="OPTION",
                       help="an option of lazyrun run, as in --run-option=--env=KEY=1")  # fmt: skip
    group.add_argument("arguments", nargs="*", metavar="ARGUMENT",
                       help="in place of the image's command, after --; for --guess")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    from dataclasses import asdict

    from nydusify.operations.optimization import optimize
    from nydusify.report import write_json

    with words.working() as progress:
        done = optimize(options, progress)
    if arguments.output_json:
        write_json(asdict(done), arguments.output_json)
    print(json.dumps(asdict(done)) if arguments.json else done)


def _options(arguments: argparse.Namespace) -> OptimizeOptions:
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    if not 1 <= arguments.level <= _MAX_LEVEL:
        raise UsageError(f"--level {arguments.level}: not of 1 to {_MAX_LEVEL}")
    if not arguments.record and _is_told_how(arguments):
        raise UsageError("how it is started, and when it is ready, is for --record")
    if arguments.arguments and not (arguments.record or arguments.guess):
        raise UsageError("what is started is for --record and --guess")
    from nydusify.images.opened import ImagePlace
    from nydusify.operations.optimization import OptimizeOptions

    source = ImagePlace(
        arguments.source,
        words.platform(arguments),
        words.store_of(arguments, "source"),
    )
    return OptimizeOptions(
        source,
        arguments.target,
        arguments.level,
        words.store_of(arguments, "target"),
        trace=arguments.trace,
        prefetch_files=arguments.prefetch_files,
        recording=_recording(arguments) if arguments.record else None,
        keep_trace=arguments.keep_trace,
        arguments=tuple(arguments.arguments),
        work_dir=words.work_dir(arguments),
        threads=arguments.threads,
    )


def _is_told_how(arguments: argparse.Namespace) -> bool:
    started = (arguments.run_option, arguments.keep_trace)
    ready = (arguments.ready_exit, arguments.ready_log, arguments.ready_port)
    return any(started) or any(ready) or bool(arguments.ready_seconds)


def _recording(arguments: argparse.Namespace) -> Recording:
    from nydusify.startup.recording import Recording

    return Recording(
        _ready(arguments), arguments.timeout, arguments.run_option, arguments.arguments
    )


def _ready(arguments: argparse.Namespace) -> Ready:
    import re

    from nydusify.startup.readiness import Elapsed, Exit, Line, Port

    if arguments.ready_log is not None:
        try:
            re.compile(arguments.ready_log)
        except re.error as error:
            raise UsageError(f"--ready-log {arguments.ready_log!r}: {error}") from None
        return Line(arguments.ready_log)
    if arguments.ready_port is not None:
        if not 0 < arguments.ready_port < 1 << 16:
            raise UsageError(f"--ready-port {arguments.ready_port}: no port")
        return Port(arguments.ready_port)
    if arguments.ready_seconds is not None:
        return Elapsed(arguments.ready_seconds)
    return Exit()
