"""Room on disk for large files, given back at the end of each module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for what the tests of one module share. On disk, not in memory."""
    directory = tmp_path_factory.mktemp("scale")
    yield directory
    shutil.rmtree(directory)
