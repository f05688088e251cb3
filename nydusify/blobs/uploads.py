"""Blobs on their way to the target while the next layers are converted.

Only blobs travel early: a tag is pushed when all of them have arrived, so an interrupted
conversion leaves none. What has arrived is found there by the next run.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from fs.registry.descriptor import Descriptor
from nydusify.blobs.destination import Destination, blob_layer, push_blob
from nydusify.blobs.layer_blob import Blob
from nydusify.report import Progress, Silence

_AT_ONCE = 2


class Uploads:
    """Of one image. Offers are ignored unless the destination is a registry.

    A context, in whose end uploads that have not begun are given up.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._pool = ThreadPoolExecutor(_AT_ONCE, "upload") if _is_slow(destination) else None
        self._running: list[tuple[Descriptor, Future[None]]] = []

    def __enter__(self) -> Uploads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def offer(self, blob: Blob) -> None:
        """Begin to push `blob`. Failure if an earlier one could not be pushed."""
        if self._pool is None:
            return
        for _, upload in self._running:
            if upload.done():
                upload.result()
        layer = blob_layer(blob)
        upload = self._pool.submit(push_blob, blob, layer, self._destination, Silence())
        self._running.append((layer, upload))

    def finish(self, progress: Progress) -> None:
        """Wait until all have arrived."""
        for layer, upload in self._running:
            progress.step(f"pushing {layer.digest[:19]}", layer.size)
            upload.result()


def _is_slow(destination: Destination) -> bool:
    """Elsewhere, blobs that turn out superfluous would stay for good."""
    return destination.in_registry and destination.storage is None
