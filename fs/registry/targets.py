"""Where servers have redirected us to: signed URLs of storage hosts, used until they fail.

Storage servers sign such a URL for minutes to hours. Asking them directly saves a
round trip for each range; the redirecting server is asked again once that fails.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

_MAX_TARGETS = 4096


class Targets:
    """By name of the blob; thread-safe and bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urls: OrderedDict[str, str] = OrderedDict()

    def find(self, blob: str) -> str | None:
        with self._lock:
            return self._urls.get(blob)

    def keep(self, blob: str, url: str) -> None:
        with self._lock:
            self._urls[blob] = url
            if len(self._urls) > _MAX_TARGETS:
                self._urls.popitem(last=False)

    def forget(self, blob: str, url: str) -> None:
        """Forget `url`, unless another thread has found a newer one."""
        with self._lock:
            if self._urls.get(blob) == url:
                del self._urls[blob]
