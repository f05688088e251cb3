"""Reads RAFS v5 bootstraps."""

from __future__ import annotations

from fs.format.buffer import CheckedBuffer


def is_v5(image: CheckedBuffer) -> bool:
    return bytes(image.view[:4]) == b"SFAR"


class BootstrapV5:
    def __init__(self, image: CheckedBuffer) -> None:
        raise image.error("RAFS v5 is not supported yet")
