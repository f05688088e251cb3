"""Connections that are made before there is anything to ask over them.

A handshake takes a way there and back, and one of TLS two or three. While a registry looks up the
manifest, those for what the manifest will name can be made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import urllib3
import urllib3.connectionpool

Pool = urllib3.connectionpool.HTTPConnectionPool


@contextmanager
def made_meanwhile(pool: Pool, count: int, patience: float) -> Iterator[None]:
    """Have `count` connections more in the pool after the body, which has one of its own.

    Waits for none. What keeps one from being made is seen by the request that would have used it.
    """
    over = threading.Event()
    for _ in range(count):
        threading.Thread(
            target=_make, args=(pool, patience, over), name="connect", daemon=True
        ).start()
    try:
        yield
    finally:
        over.set()


def _make(pool: Pool, patience: float, over: threading.Event) -> None:
    with suppress(urllib3.exceptions.PoolError):  # it is closed
        connection = pool._get_conn()
        try:
            if getattr(connection, "sock", None) is None:
                connection.timeout = patience
                connection.connect()
        except (urllib3.exceptions.HTTPError, OSError):
            connection.close()
        over.wait()
        pool._put_conn(connection)
