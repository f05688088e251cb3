"""Layers that are being converted, a few at a time, handed back in the order of the image.

A layer is converted without a look at any other, so it does not matter how many are at work,
nor which of them is done first. While one is read, others are decompressed or compressed.
Who waits for a layer is shown its progress; what fails first in the order of the image is raised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from fs import heap
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.layer_conversion import LayerOptions, convert_layer
from nydusify.layers.sources import SourceLayer
from nydusify.report import Progress

#: More would take more memory, and not be faster: one reads for some tens of MB a second.
_AT_ONCE = 2


class Turn(NamedTuple):
    """A layer as it comes out. `kept`: it was converted before. `seconds`: what it took now."""

    source: SourceLayer
    layer: ConvertedLayer
    kept: bool
    seconds: float


class _Waiting(NamedTuple):
    source: SourceLayer
    kept: bool
    done: Future[tuple[ConvertedLayer, float]]


class _Abandoned(Exception):
    """Ends a conversion that nobody waits for any more."""


class LayerQueue:
    """Of an image with `total` layers, converted with files in `work`, compressed in `pool`.

    A context: at its end nothing is at work any more, and what was is given up.
    """

    def __init__(
        self,
        total: int,
        work: Path,
        pool: ThreadPoolExecutor,
        progress: Progress,
        dictionary: ChunkDictionary | None = None,
    ) -> None:
        self._total = total
        self._work = work
        self._pool = pool
        self._progress = progress
        self._dictionary = dictionary
        self._converters = ThreadPoolExecutor(_AT_ONCE, "layer")
        self._waiting: list[_Waiting] = []
        self._ended = False
        self._lock = threading.Lock()
        #: Bytes read of each layer, and which of them is waited for.
        self._read = [0] * total
        self._shown = -1

    def __enter__(self) -> LayerQueue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._converters.shutdown(cancel_futures=True)

    def put(self, source: SourceLayer, options: LayerOptions, kept: ConvertedLayer | None) -> None:
        """The image's next layer, to be converted unless it is `kept`."""
        if kept is None:
            done = self._converters.submit(self._convert, source, options, len(self._waiting))
        else:
            done = Future()
            done.set_result((kept, 0.0))
        self._waiting.append(_Waiting(source, kept is not None, done))

    def __iter__(self) -> Iterator[Turn]:
        """What was put in, in that order, each as soon as it is there."""
        for number, (source, kept, done) in enumerate(self._waiting):
            if not kept:
                self._show(number, source.size)
            layer, seconds = done.result()
            yield Turn(source, layer, kept, seconds)

    def _convert(
        self, source: SourceLayer, options: LayerOptions, number: int
    ) -> tuple[ConvertedLayer, float]:
        started = time.monotonic()
        layer = convert_layer(
            source,
            options,
            self._work / f"blob-{number + 1}",
            self._pool,
            partial(self._advance, number),
            self._dictionary,
        )
        heap.give_back()  # a layer at work takes more than what is left of it
        return layer, round(time.monotonic() - started, 3)

    def _show(self, number: int, size: int) -> None:
        self._progress.step(f"layer {number + 1} of {self._total}", size)
        with self._lock:
            self._shown, read = number, self._read[number]
        self._progress.advance(read)

    def _advance(self, number: int, size: int) -> None:
        if self._ended:
            raise _Abandoned
        with self._lock:
            self._read[number] += size
            shown = number == self._shown
        if shown:
            self._progress.advance(size)
