"""The guess for an opened image, as a set of chunks."""

from __future__ import annotations

from collections.abc import Sequence

from fs.image.contents import Contents
from fs.registry.config import ImageConfig
from nydusify.startup.files import ImageFiles
from nydusify.startup.guess import guess
from nydusify.startup.startup_set import StartupSet


def guessed_set(
    contents: Contents, config: ImageConfig, arguments: Sequence[str] | None = None
) -> StartupSet:
    """The chunks that the start of an image with `config` is thought to read.

    `arguments` take the place of its command.
    """
    chosen = StartupSet(contents.bootstrap)
    for want in guess(ImageFiles(contents.bootstrap, contents.read), config, arguments):
        for offset, length in want.spans:
            chosen.add_file(want.file.nid, offset, length)
    return chosen
