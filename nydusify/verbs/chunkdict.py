"""Make a chunk dictionary of several Nydus images: the chunks that they have in common.

Images converted with it (convert --chunk-dict) refer to these chunks in place of storing
them again. The dictionary is an image whose blobs are those of its sources.

example:
  nydusify chunkdict generate --sources oci:images:a,oci:images:b --target oci:images:dict
  nydusify chunkdict generate --sources reg.example.com/a:nydus,reg.example.com/b:nydus -B dict.boot
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fs.format.errors import UsageError
from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("generate",), metavar="generate", help="the only thing to do with one")
    add("--sources", required=True, metavar="IMAGE[,IMAGE]", help="the images, by commas")
    add("--target", metavar="IMAGE", help="where the dictionary goes")
    add("-B", "--bootstrap", type=Path, metavar="FILE", help="write its bootstrap here")
    add("--min-images", type=int, default=2, metavar="N",
        help="how many of the images must have a chunk (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    names = [name for name in arguments.sources.split(",") if name]
    if not 1 <= arguments.min_images <= len(names):
        raise UsageError(f"--min-images is from 1 to the number of images, which is {len(names)}")
    from dataclasses import asdict

    from nydusify.images.opened import ImagePlace
    from nydusify.operations.dictionary import generate
    from nydusify.report import size_text

    store = words.store_of(arguments, "source")
    sources = [ImagePlace(name, words.platform(arguments), store) for name in names]
    with words.working() as progress:
        done = generate(
            sources,
            arguments.target,
            words.store_of(arguments, "target"),
            progress,
            bootstrap=arguments.bootstrap,
            least=arguments.min_images,
            work_dir=words.work_dir(arguments),
        )
    if arguments.json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"{done.chunks} chunks of {size_text(done.size)} in {len(done.blobs)} blobs;"
        f" copies of them in other blobs take {size_text(done.saved)}"
    )
    if done.target:
        print(f"{done.target}@{done.target_digest}")
