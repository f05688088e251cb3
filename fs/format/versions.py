"""Opens bootstraps with the reader of their version."""

from __future__ import annotations

from fs.format import reader5, reader6
from fs.format.bootstrap import Bootstrap
from fs.format.buffer import Buffer, CheckedBuffer


def open_bootstrap(buffer: Buffer, name: str) -> Bootstrap:
    """Open a v6 or v5 bootstrap; `name` is what error messages call it.

    FormatError when its headers are malformed or ask for what is not supported.
    """
    image = CheckedBuffer(buffer, name)
    if reader5.is_v5(image):
        return reader5.BootstrapV5(image)
    return reader6.BootstrapV6(image)
