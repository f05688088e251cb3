"""Trees that all kinds are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.build import sample_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every type of entry, many small files, one of several chunks. Not to be changed."""
    return sample_tree(tmp_path_factory.mktemp("kinds") / "source")
