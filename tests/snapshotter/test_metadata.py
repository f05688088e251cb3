"""The metadata file when many processes come at once."""

from __future__ import annotations

import os
from pathlib import Path

from snapshotter.metadata import ACTIVE, Metadata

_PROCESSES = 8
_ROUNDS = 8


def _create(path: Path, name: str) -> None:
    metadata = Metadata(str(path))
    with metadata.transaction():
        metadata.create(name, ACTIVE, None, {})
    metadata.close()


def test_first_use_by_many_processes(tmp_path: Path) -> None:
    """SQLite by itself says "database is locked" to some of them."""
    for round_number in range(_ROUNDS):
        path = tmp_path / f"{round_number}.db"
        gate, starter = os.pipe()
        children = []
        for number in range(_PROCESSES):
            child = os.fork()
            if child == 0:
                try:
                    os.close(starter)
                    os.read(gate, 1)
                    _create(path, str(number))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        os.close(gate)
        os.close(starter)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * _PROCESSES
