"""Count files, chunks and bytes of Nydus images, and what several of them share.

The base is one image (or --bootstrap FILE), several, or all bootstraps in --blob-dir DIR.
With --target the chunks of another image are set against it.

example:
  nydusify stat registry.example.com/app:nydus
  nydusify stat oci:images:app1 oci:images:app2 --json
  nydusify stat --blob-dir bootstraps/ --target new.boot
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fs.format.errors import FormatError, UsageError, local_errors
from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="reference, oci:DIR[:TAG], or a bootstrap file")
    add("-B", "--bootstrap", metavar="FILE", help="the same, a bootstrap file")
    add("-D", "--blob-dir", type=Path, metavar="DIR", help="all bootstraps in a directory")
    add("-T", "--target", metavar="IMAGE", help="set against the others")
    add("--json", action="store_true", help="print JSON")
    add("-J", "--output-json", type=Path, metavar="FILE", help="write the JSON to a file")
    words.add_access(parser)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    given = [*arguments.images, *([arguments.bootstrap] if arguments.bootstrap else [])]
    if not given and arguments.blob_dir is None:
        raise UsageError("name an image, --bootstrap FILE or --blob-dir DIR")
    from nydusify.images.opened import ImagePlace, open_image
    from nydusify.images.statistics import Statistics
    from nydusify.workplace import workplace

    store, platform = words.store_of(arguments), words.platform(arguments)
    statistics = Statistics()
    with workplace(words.work_dir(arguments)) as work:
        for name in given:
            with open_image(ImagePlace(name, platform, store), work) as opened:
                statistics.add_base(opened.bootstrap)
        for path in _files(arguments.blob_dir, arguments.target):
            try:
                with open_image(ImagePlace(str(path)), work) as opened:
                    statistics.add_base(opened.bootstrap)
            except FormatError:
                continue  # a blob
        if not statistics.images:
            raise UsageError(f"{arguments.blob_dir}: holds no bootstrap")
        if arguments.target is not None:
            with open_image(ImagePlace(arguments.target, platform, store), work) as opened:
                statistics.set_target(opened.bootstrap)
    told = statistics.to_json()
    if arguments.output_json:
        with local_errors(arguments.output_json):
            arguments.output_json.write_text(json.dumps(told) + "\n")
    if arguments.json or arguments.output_json:
        if arguments.json:
            print(json.dumps(told))
        return
    print(_text(told))


def _files(directory: Path | None, target: str | None) -> list[Path]:
    """Files that may be bootstraps: nydus-image names them by digest, without a suffix."""
    if directory is None:
        return []
    with local_errors(directory):
        found = sorted(path for path in directory.iterdir() if path.is_file())
    return [path for path in found if str(path) != target and path.suffix in ("", ".boot")]


_ROWS = {
    "Directories": "dirs",
    "Files": "files",
    "Symlinks": "symlinks",
    "Chunks": "chunks",
    "File Size": "file_size",
    "Padding Size": "padding_size",
    "Uncompressed Size": "uncomp_size",
    "Compressed Size": "comp_size",
    "Owned Chunk Count": "own_chunks",
    "Owned Comp Size": "own_comp_size",
    "Owned Uncomp Size": "own_uncomp_size",
    "Dedup Chunk Count": "dedup_chunks",
    "Dedup Comp Size": "dedup_comp_size",
    "Dedup Uncomp Size": "dedup_uncomp_size",
    "Referenced Chunk Count": "ref_chunks",
    "Referenced Comp Size": "ref_comp_size",
    "Referenced Uncomp Size": "ref_uncomp_size",
}


def _text(told: dict[str, Any]) -> str:
    parts = []
    if told["target_enabled"]:
        parts.append("Target Image Statistics:\n" + _image(told["target_image"]))
    parts.append("Base Image Statistics:\n" + _image(told["base_image"]))
    if told["dedup"]:
        lines = ["Chunk Deduplication Statistics:"]
        lines.append("in images  chunks  stored bytes  bytes saved")
        lines += [
            f"{row['images']:>9}  {row['chunks']:>6}  {row['comp_size']:>12}  "
            f"{row['comp_saved']:>11}"
            for row in told["dedup"]
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _image(figures: dict[str, Any]) -> str:
    lines = [f"{title + ':':<24}{figures[name]}" for title, name in _ROWS.items()]
    for title, name, first in (("File Size Bits", "file_sizes", 0),
                               ("Chunk Size Bits", "chunk_sizes", 12)):  # fmt: skip
        counts = [(bits, n) for bits, n in enumerate(figures[name], first) if n]
        lines.append(f"{title}: " + ", ".join(f"{bits}: {count}" for bits, count in counts))
    return "\n".join(lines)
