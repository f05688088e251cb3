"""Layers that are converted at the same time come out in order, and end when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fs.format.errors import FormatError
from fs.tar.entry import Entry
from nydusify.layers.sources import Advance, Entries, SourceLayer
from nydusify.operations.image_conversion import convert_layers
from nydusify.options import ConvertOptions
from nydusify.report import Silence
from tests.parts.waiting import PATIENCE

Open = Callable[[Advance], AbstractContextManager[Entries]]


class Opened:
    """Entries without content, and what is to happen between them."""

    def __init__(self, names: Iterator[bytes]) -> None:
        self._names = names

    def __iter__(self) -> Iterator[Entry]:
        for name in self._names:
            yield Entry(name, 0o040000, mode=0o755)

    def read(self, size: int) -> bytes:
        raise AssertionError


def layer(number: int, names: Callable[[Advance], Iterator[bytes]]) -> SourceLayer:
    @contextmanager
    def opened(advance: Advance) -> Iterator[Entries]:
        yield Opened(names(advance))

    return SourceLayer(f"layer {number}", f"sha256:{number:064}", 10, opened)


class Told(Silence):
    """The steps, and the bytes that were told of since the last."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    def step(self, name: str, size: int) -> None:
        self.steps.append((name, 0))

    def advance(self, size: int) -> None:
        name, before = self.steps[-1]
        self.steps[-1] = name, before + size


def test_the_upper_layer_is_done_first(tmp_path: Path) -> None:
    """The lower one waits for it; both count, in their order."""
    upper_done = threading.Event()

    def lower(advance: Advance) -> Iterator[bytes]:
        advance(4)
        assert upper_done.wait(PATIENCE)
        yield b"lower"
        advance(6)

    def upper(advance: Advance) -> Iterator[bytes]:
        advance(10)
        yield b"upper"
        upper_done.set()

    told = Told()
    layers = [layer(1, lower), layer(2, upper)]
    converted = convert_layers(layers, ConvertOptions("", ""), tmp_path, told)
    assert list(converted.root.children) == [b"lower", b"upper"]
    assert [figures.source_digest[-1] for figures in converted.figures] == ["1", "2"]
    assert told.steps == [("layer 1 of 2", 10), ("layer 2 of 2", 10)]


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
    upper_begun = threading.Event()

    def lower(advance: Advance) -> Iterator[bytes]:
        assert upper_begun.wait(PATIENCE)
        yield b"first"
        raise FormatError("is wrong", "layer 1")

    def upper(advance: Advance) -> Iterator[bytes]:
        while True:
            yield b"again"
            advance(1)
            upper_begun.set()

    layers = [layer(1, lower), layer(2, upper), layer(3, upper)]
    with pytest.raises(FormatError, match="layer 1"):
        convert_layers(layers, ConvertOptions("", ""), tmp_path, Silence())


def test_the_lowest_failure_is_told(tmp_path: Path) -> None:
    upper_failed = threading.Event()

    def failing(number: int, wait: bool) -> Callable[[Advance], Iterator[bytes]]:
        def names(advance: Advance) -> Iterator[bytes]:
            if wait:
                assert upper_failed.wait(PATIENCE)
            yield b"first"
            upper_failed.set()
            raise FormatError("is wrong", f"layer {number}")

        return names

    layers = [layer(1, failing(1, wait=True)), layer(2, failing(2, wait=False))]
    with pytest.raises(FormatError, match="layer 1"):
        convert_layers(layers, ConvertOptions("", ""), tmp_path, Silence())
