"""Platforms are spelt and matched as containerd does it."""

from __future__ import annotations

import os

import pytest

from fs.format.errors import FormatError, NotFoundError, UsageError
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import Index
from fs.registry.mediatypes import NYDUS_ARTIFACT, OCI_INDEX, OCI_MANIFEST
from fs.registry.platform import Platform, default_platform, parse_platform, platform_from_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("i386", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_spelling(text: str, expected: str) -> None:
    assert str(parse_platform(text)) == expected


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d", "linux/", "linux/am d64", "linux/\n"])
def test_bad_platforms(text: str) -> None:
    with pytest.raises(UsageError, match="is not a platform"):
        parse_platform(text)


def test_default_is_this_machine() -> None:
    expected = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
    assert default_platform().os == "linux"
    assert expected is None or default_platform().architecture == expected


def index_of(*platforms: str | None, artifact_types: tuple[str, ...] = ()) -> Index:
    entries = []
    for i, text in enumerate(platforms):
        platform = parse_platform(text) if text else None
        kind = artifact_types[i] if artifact_types else ""
        digest = f"sha256:{i:064x}"
        entries.append(Descriptor(OCI_MANIFEST, digest, i, {}, platform, artifact_type=kind))
    return Index(OCI_INDEX, entries, {}, b"", "")


@pytest.mark.parametrize(
    ("own", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", [None, "linux/amd64"], 1),
        ("linux/amd64", [None, "linux/arm64"], 0),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
    ],
)
def test_selection(own: str, offered: list[str | None], chosen: int) -> None:
    assert index_of(*offered).select(parse_platform(own), "x").size == chosen


def test_no_match_lists_what_there_is() -> None:
    with pytest.raises(NotFoundError, match=r"no image for linux/amd64, only for linux/arm64, win"):
        index_of("windows/amd64", "linux/arm64").select(parse_platform("linux/amd64"), "x")


def test_nydus_variant_is_taken_when_meant() -> None:
    both = index_of("linux/amd64", "linux/amd64", artifact_types=("", NYDUS_ARTIFACT))
    own = parse_platform("linux/amd64")
    assert both.select(own, "x").size == 0
    assert both.select(own, "x", nydus=True).size == 1
    only = index_of("linux/amd64", artifact_types=(NYDUS_ARTIFACT,))
    assert only.select(own, "x").size == 0


def test_json_round_trip() -> None:
    platform = Platform("linux", "arm", "v6", ("nydus.remoteimage.v1",))
    assert platform_from_json(platform.to_json(), "x") == platform


@pytest.mark.parametrize("fields", [None, [], {"os": 1}, {"os": "l", "os.features": [1]}])
def test_bad_json(fields: object) -> None:
    with pytest.raises(FormatError):
        platform_from_json(fields, "x")
