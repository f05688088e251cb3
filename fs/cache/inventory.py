"""What a cache directory holds, whether it is right, and making room in it by hand.

Works beside any number of processes that use the directory, and without one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from fs.cache.claims import AS_A_WHOLE, Columns
from fs.cache.eviction import allocated, evict, remove
from fs.cache.holding import Holding, open_holding, prefixes
from fs.cache.index import ContentIndex
from fs.cache.locks import changing
from fs.cache.tarball import is_proven
from fs.format import codec

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """One blob. `path` is that of its data, `allocated` in bytes, `last_use` in seconds since 1970.

    `frozen`: the whole of it was given to a kernel; it goes only as a whole.
    """

    blob: str
    path: str
    allocated: int
    chunks: int
    ready: int
    last_use: int
    in_use: bool
    frozen: bool


class Verdict(NamedTuple):
    """How many chunks of a blob were checked and how many were wrong, and so taken back.

    `known` is False for files that do not say what their chunks must hash to.
    """

    blob: str
    path: str
    checked: int
    wrong: int
    known: bool


def survey(directory: str) -> list[Held]:
    """Every blob, the one used last first."""
    found = []
    for holding in _holdings(directory):
        found.append(
            Held(
                _name(holding),
                holding.prefix + ".data",
                holding.allocated(),
                holding.chunk_count(),
                holding.ready_count(),
                holding.last_use(),
                not holding.idle,
                holding.is_frozen(),
            )
        )
    return sorted(found, key=lambda held: -held.last_use)


def prune(directory: str, target: int | None) -> int:
    """Free what nobody has open; with `target`, the oldest until so many bytes are left.

    The bytes that were freed.
    """
    before = allocated(directory)
    if not os.path.isdir(directory):
        return 0
    index = ContentIndex(directory)
    try:
        if target is not None:
            return before - evict(directory, target, index=index)
        for prefix in prefixes(directory):
            remove(directory, prefix, index)
    finally:
        index.close()
    return before - allocated(directory)


def verify(directory: str) -> Iterator[Verdict]:
    """Read and hash every chunk that is here; those that are wrong are here no more."""
    for holding in _holdings(directory):
        place = _name(holding), holding.prefix + ".data"
        if holding.claims is None:
            yield Verdict(*place, 0, 0, known=False)
            continue
        columns = holding.columns()
        ready = list(holding.ready())
        if holding.claims.digester == AS_A_WHOLE:
            yield _verdict_as_a_whole(holding, columns, ready)
            continue
        suspects = [position for position in ready if not _is_right(holding, columns, position)]
        yield Verdict(*place, len(ready), _take_back_wrong(holding, suspects), known=True)


def _verdict_as_a_whole(holding: Holding, columns: Columns, ready: list[int]) -> Verdict:
    """On a blob that one digest proves, which says nothing as long as a part is missing."""
    place = _name(holding), holding.prefix + ".data"
    if holding.claims is None or len(ready) != len(columns.sizes):
        return Verdict(*place, 0, 0, known=False)
    if is_proven(holding.data, sum(columns.sizes), columns.digest(0).hex()):
        return Verdict(*place, len(ready), 0, known=True)
    with changing(holding.claims.descriptor, back=True):
        holding.take_back(ready, columns)
    return Verdict(*place, len(ready), len(ready), known=True)


def _take_back_wrong(holding: Holding, suspects: list[int]) -> int:
    """A chunk may only have been evicted while it was read, so look again when nothing can go."""
    if not suspects or holding.claims is None:
        return 0
    with changing(holding.claims.descriptor, back=True):
        columns = holding.claims.columns()
        wrong = [
            position
            for position in suspects
            if holding.is_ready(position) and not _is_right(holding, columns, position)
        ]
        if wrong:
            holding.take_back(wrong, columns)
    return len(wrong)


def _is_right(holding: Holding, columns: Columns, position: int) -> bool:
    assert holding.claims is not None
    try:
        data = os.pread(holding.data, columns.sizes[position], columns.offsets[position])
    except OSError:
        return False
    return codec.digest(holding.claims.digester, data) == columns.digest(position)


def _holdings(directory: str) -> Iterator[Holding]:
    for prefix in prefixes(directory):
        try:
            with open_holding(directory, prefix) as holding:
                yield holding
        except FileNotFoundError:
            continue  # evicted meanwhile, or a user is about to make it
        except (OSError, ValueError) as error:
            log.warning("%s: %s", prefix, error)


def _name(holding: Holding) -> str:
    return os.path.basename(holding.prefix).removesuffix(".blob")
