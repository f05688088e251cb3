"""Merge several bootstraps into one: the tree that their stack shows, lowest first.

Sources are bootstrap files, blobs that end in their bootstrap, or Nydus images. Whiteouts of OCI
layers and of overlayfs are applied; blobs of which nothing is left are dropped.

example:
  nydusify merge --bootstrap merged.boot layer1.boot layer2.boot
  nydusify merge --blob-dir images/ layer1.boot layer2.boot
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fs.format.errors import UsageError
from nydusify.verbs import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from nydusify.operations.merging import LayerBlob

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="bootstraps, the lowest layer's first")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("-B", "--bootstrap", type=Path, metavar="FILE", help="write it here")
    output.add_argument(
        "-D", "--blob-dir", type=Path, metavar="DIR", help="write it to DIR, named by its sha256"
    )
    add("--parent-bootstrap", metavar="SOURCE", help="what the sources are put on")
    add("--chunk-dict", metavar="SOURCE", help="whose blobs are not the layers' own")
    add("--blob-digests", metavar="LIST", help="ids of the layers' own blobs, by commas")
    add("--original-blob-ids", metavar="LIST", help="the same, as other tools name it")
    add("--blob-sizes", metavar="LIST", help="their sizes in bytes")
    add("--blob-toc-digests", metavar="LIST", help="sha256 of their tables of contents")
    add("--blob-toc-sizes", metavar="LIST", help="sizes of those")
    add("--json", action="store_true", help="tell what was written as JSON")
    add("-J", "--output-json", type=Path, metavar="FILE", help="the same to a file")
    words.add_access(parser)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nydusify.operations.merging import merge
    from nydusify.report import write_json

    done = merge(
        arguments.sources,
        arguments.bootstrap or arguments.blob_dir,
        parent=arguments.parent_bootstrap,
        dictionary=arguments.chunk_dict,
        overrides=_overrides(arguments),
        output_is_directory=arguments.blob_dir is not None,
        platform=words.platform(arguments),
        store=words.store_of(arguments),
        work_dir=words.work_dir(arguments),
    )
    told = {**asdict(done), "fs_version": str(done.fs_version)}
    if arguments.output_json:
        write_json(told, arguments.output_json)
    if arguments.json:
        print(json.dumps(told))
        return
    print(f"meta blob path: {done.bootstrap}\ndata blobs: {json.dumps(done.blobs)}")


def _overrides(arguments: argparse.Namespace) -> list[LayerBlob]:
    from nydusify.operations.merging import LayerBlob

    count = len(arguments.sources)
    ids = _list(arguments.blob_digests or arguments.original_blob_ids, count, "blob ids", _hex)
    sizes = _list(arguments.blob_sizes, count, "sizes", int)
    digests = _list(arguments.blob_toc_digests, count, "digests", lambda t: bytes.fromhex(_hex(t)))
    toc_sizes = _list(arguments.blob_toc_sizes, count, "sizes", int)
    if not any((ids, sizes, digests, toc_sizes)):
        return []
    return [
        LayerBlob(
            ids[number] if ids else None,
            sizes[number] if sizes else None,
            digests[number] if digests else None,
            toc_sizes[number] if toc_sizes else None,
        )
        for number in range(count)
    ]


def _hex(text: str) -> str:
    text = text.removeprefix("sha256:")
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(text)
    return text


def _list(text: str | None, count: int, what: str, read: Callable[[str], T]) -> list[T]:
    """The items of a list by commas; UsageError unless there is one for each source."""
    if text is None:
        return []
    try:
        items = [read(item.strip()) for item in text.split(",")]
    except ValueError:
        raise UsageError(f"{text[:80]!r} is no list of {what}") from None
    if len(items) != count:
        raise UsageError(f"{len(items)} {what} for {count} sources")
    return items
