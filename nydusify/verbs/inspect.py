"""Look at a Nydus image: its blobs, its largest files, what is wasted; or ask about details.

With --source, the ordinary image it was made of, also the files that upper layers replace or
delete. With --trace (nydus-fs mount --trace), also the files that a run never read.

requests (-R, or a line each with -i), answered as JSON:
  stats, blobs, prefetch, ls [PATH], cd PATH, stat PATH, chunk OFFSET, icheck INODE

example:
  nydusify inspect registry.example.com/app:nydus --source registry.example.com/app:1
  nydusify inspect --bootstrap image.boot -R blobs
  nydusify inspect oci:images:nydus -i
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from fs.format.errors import Failure, UsageError
from nydusify.verbs import words

if TYPE_CHECKING:
    from nydusify.images.inspection import Answer, Inspector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_image(parser)
    ask = parser.add_mutually_exclusive_group()
    ask.add_argument("-R", "--request", metavar="REQUEST", help="answer one request")
    ask.add_argument("-i", "--interactive", action="store_true", help="answer requests from stdin")
    ask.add_argument("--json", action="store_true", help="the overview as JSON")
    parser.add_argument("--source", metavar="IMAGE", help="the image that this one was made of")
    parser.add_argument("--trace", metavar="FILE", help="a trace of a run of this image")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="length of lists (default: %(default)s)"
    )
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    place = words.image_place(arguments)
    asked = arguments.request is not None or arguments.interactive
    if asked and (arguments.source or arguments.trace):
        raise UsageError("--source and --trace are for the overview, not for requests")
    from nydusify.workplace import workplace

    with workplace(words.work_dir(arguments)) as work:
        from nydusify.images.opened import open_image

        with open_image(place, work) as opened:
            from nydusify.images.inspection import Inspector

            if arguments.request is not None:
                _print(Inspector(opened.bootstrap).ask(arguments.request))
                return
            if arguments.interactive:
                _converse(Inspector(opened.bootstrap))
                return
            from nydusify.images.overview import add_layers, look_at, text

            view = look_at(opened, arguments.top, arguments.trace)
        if arguments.source is not None:
            from nydusify.layers.sources import open_source

            store = words.store_of(arguments, "source")
            with (
                words.working() as progress,
                open_source(arguments.source, place.platform, store) as source,
            ):
                add_layers(view, source, progress, arguments.top)
    print(json.dumps(view.to_json()) if arguments.json else text(view))


def _converse(inspector: Inspector) -> None:
    """A request a line until "exit"; one that fails does not end it."""
    prompt = sys.stdin.isatty()
    while True:
        if prompt:
            print(f"{inspector.directory} > ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in ("exit", "quit", "q"):
            return
        if not line.strip():
            continue
        if line.strip() == "help":
            print(__doc__)
            continue
        try:
            _print(inspector.ask(line), indent=2 if prompt else None)
        except Failure as failure:
            print(f"nydusify: {failure}", file=sys.stderr)


def _print(answer: Answer, indent: int | None = None) -> None:
    print(json.dumps(answer, indent=indent))
