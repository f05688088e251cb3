"""Gives back what the C library holds free, some time after something was used and let go.

What is received and decoded lies between objects that stay, and a heap keeps such holes. Left
alone, a worker's memory comes to be that of the most it ever had to do at once.
"""

from __future__ import annotations

import trio

from fs import heap

#: Seconds from the first use to the giving back: what comes until then is given back with it.
PAUSE = 5.0


class Trimming:
    """Nothing is done, and nobody woken, while nothing is stirred. Only the trio thread calls."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._is_planned = False

    def stir(self) -> None:
        """Say that memory was taken which is not needed for long."""
        if not self._is_planned:
            self._is_planned = True
            self._nursery.start_soon(self._give_back)

    async def _give_back(self) -> None:
        await trio.sleep(PAUSE)
        self._is_planned = False
        await trio.to_thread.run_sync(heap.give_back)
