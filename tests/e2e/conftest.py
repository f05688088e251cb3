"""The images that the end-to-end tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import succeed
from tests.e2e.images import upper_layer, write_image


@pytest.fixture(scope="session")
def plain_layout(base_layer: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with the small image, tagged `plain`. Not to be changed."""
    layout = tmp_path_factory.mktemp("plain") / "layout"
    write_image([base_layer, upper_layer()], f"oci:{layout}:plain")
    return layout


@pytest.fixture(scope="session")
def nydus_layout(plain_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same image converted, tagged `nydus`. Not to be changed."""
    layout = tmp_path_factory.mktemp("nydus") / "layout"
    succeed(
        "nydusify", "convert", "--source", f"oci:{plain_layout}:plain",
        "--target", f"oci:{layout}:nydus",
    )  # fmt: skip
    return layout
