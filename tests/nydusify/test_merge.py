"""The merged tree of a converted image equals the kernel's overlayfs over the layers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs.format.errors import FormatError
from nydusify.options import ConvertOptions
from tests.nydusify.images import convert_tars
from tests.parts.examples import examples
from tests.parts.layers import expected_tree, overlay_of, unlike
from tests.parts.stacks import ENTRIES, UPPERS, alpine, base, layer_of

pytestmark = [pytest.mark.overlay, pytest.mark.root]

OPTIONS = ConvertOptions("", "", chunk_size=4096)


def assert_as_overlayfs(layers: Sequence[bytes], tmp_path: Path) -> None:
    converted, oracle = tmp_path / "converted", tmp_path / "oracle"
    converted.mkdir()
    oracle.mkdir()
    with overlay_of(layers, oracle) as merged:
        expected = expected_tree(merged)
    assert unlike(expected, convert_tars(layers, converted, OPTIONS)) == []


@pytest.mark.parametrize("name", UPPERS)
def test_two_layers(name: str, tmp_path: Path) -> None:
    assert_as_overlayfs([base().tar(), UPPERS[name].tar()], tmp_path)


# Repeated, this one links to a name that its own layer has replaced.
@pytest.mark.parametrize("name", [name for name in UPPERS if name != "hard link below, replaced"])
def test_on_top_of_itself(name: str, tmp_path: Path) -> None:
    """What one layer hides or adds stays so under a third one that repeats it."""
    assert_as_overlayfs([base().tar(), UPPERS[name].tar(), UPPERS[name].tar()], tmp_path)


def test_alpine(samples: Path, tmp_path: Path) -> None:
    assert_as_overlayfs(alpine(samples), tmp_path)


def test_every_entry_type(samples: Path, tmp_path: Path) -> None:
    assert_as_overlayfs([(samples / "all-entry-type.tar").read_bytes()], tmp_path)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=3))
def test_generated_stacks(stack: list[Any]) -> None:
    """The same tree; or, where the kernel refuses to unpack a layer, a FormatError."""
    tars = [layer_of(entries) for entries in stack]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "oracle").mkdir()
        try:
            with overlay_of(tars, work / "oracle") as merged:
                expected = expected_tree(merged)
        except NotADirectoryError:
            # Known gap: an entry below a name that a hard link took from the lower layers.
            with contextlib.suppress(FormatError):
                convert_tars(tars, work, OPTIONS)
            return
        except OSError:
            with pytest.raises(FormatError):
                convert_tars(tars, work, OPTIONS)
            return
        assert unlike(expected, convert_tars(tars, work, OPTIONS)) == []
