"""The trace of one instance: begun with its mount or while it is used, ended before its image goes.

Equal mounts share an image, which tells of its reads once: only one of them is traced at a time.

While one is traced, the kernel reads no farther ahead than it does through EROFS: around each
page of a program that is met it would read 1 MiB, and the set of a start would be as much larger.
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from fs.daemon import kernel
from fs.format.errors import Failure, UsageError
from fs.image.source import Resolved
from fs.image.trace import Trace
from fs.image.tree import Image

log = logging.getLogger(__name__)


class Tracing:
    """`nursery` ends with the worker; what was touched until then is written."""

    def __init__(
        self, image: Image, source: str, resolved: Resolved, nursery: trio.Nursery
    ) -> None:
        self._image = image
        self._source = source
        self._resolved = resolved
        self._nursery = nursery
        self._trace: Trace | None = None
        self._device: str | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def attached(self, device: str) -> None:
        """The instance is on the FUSE mount with this "MAJOR:MINOR"."""
        self._device = device
        if self._trace is not None:
            kernel.narrow_readahead(device)

    async def start(self, path: str) -> None:
        """Record into `path`, continuing it if it is this image's own. Failure."""
        resolved = self._resolved
        trace = await trio.to_thread.run_sync(
            Trace.begin,
            path,
            self._image,
            self._source,
            resolved.bootstrap,
            resolved.manifest_digest,
        )
        if self._image.on_read is not None:
            trace.close()
            raise UsageError(f"{self._source}: its reads are recorded already")
        self._image.on_read, self._image.on_flat = trace.touch, trace.touch_flat
        self._trace, self._scope, self._ended = trace, trio.CancelScope(), trio.Event()
        if self._device is not None:
            kernel.narrow_readahead(self._device)
        self._nursery.start_soon(self._run, trace)

    async def carry_on(self, path: str | None) -> None:
        """The same after a worker's death, when reads matter more than their record."""
        if path is None:
            return
        try:
            await self.start(path)
        except Failure as failure:
            log.warning("%s", failure)

    async def _run(self, trace: Trace) -> None:
        try:
            with self._scope:
                await trace.run()
        finally:
            self._image.on_read = self._image.on_flat = None
            trace.close()
            self._trace = None
            if self._device is not None:
                kernel.widen_readahead(self._device)
            self._ended.set()

    async def stop(self) -> None:
        """Write what is left and close the file, if one is open."""
        if self._trace is not None:
            self._scope.cancel()
            await self._ended.wait()

    def status(self) -> dict[str, Any] | None:
        return None if self._trace is None else self._trace.status()
