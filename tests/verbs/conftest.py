"""Images that the verbs are tried on, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from nydusify.cli import main
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.stacks import base


@pytest.fixture(scope="session")
def stack() -> list[bytes]:
    """Two layers: every kind of inode, a file of several chunks, deletions, hard links."""
    low = base().add("usr/big", data=bytes(range(256)) * 5000).add("etc/passwd", data=b"root")
    low.add("usr/old", data=b"o" * 9000).add("usr/gone", data=b"g" * 7000)
    upper = LayerTar().add("usr/.wh.gone").add("usr/old", data=b"new").link("d", "dir/a")
    upper.symlink("usr/link", "../etc/passwd").add("usr/more", data=b"m" * 5000)
    return [low.tar(), upper.tar()]


@pytest.fixture(scope="session")
def images(stack: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the image `plain`, and as `nydus` what convert made of it."""
    layout = tmp_path_factory.mktemp("verbs") / "images"
    write_plain_image(f"oci:{layout}:plain", stack)
    source, target = f"oci:{layout}:plain", f"oci:{layout}:nydus"
    words = ["convert", "--source", source, "--target", target, "--fs-chunk-size", "0x10000"]
    assert main(words) == 0
    return layout
