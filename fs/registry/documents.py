"""Manifests and indexes of our own, as documents and as the bytes that are pushed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fs.registry.descriptor import Descriptor, describe
from fs.registry.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from fs.registry.places import ImageWriter


def encode_json(document: object) -> bytes:
    """The same bytes for the same document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def image_document(
    config: Descriptor,
    layers: Iterable[Descriptor],
    annotations: Mapping[str, str],
    media_type: str = OCI_MANIFEST,
    **more: object,
) -> dict[str, Any]:
    """A manifest; `layers` from the lowest up. `more` are fields of it as JSON has them."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        **more,
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return document


def index_document(manifests: Iterable[Descriptor], media_type: str = OCI_INDEX) -> dict[str, Any]:
    """An index; clients take the first of `manifests` that fits."""
    return {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [entry.to_json() for entry in manifests],
    }


def with_layers(
    config: Mapping[str, Any], diff_ids: Sequence[str], history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A configuration that tells of these layers; the rest of `config` stays as it is."""
    return {
        **{key: value for key, value in config.items() if key not in ("history", "rootfs")},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": list(history),
    }


def push_config(
    writer: ImageWriter, document: Mapping[str, Any], media_type: str = OCI_CONFIG
) -> Descriptor:
    raw = encode_json(document)
    config = describe(raw, media_type)
    writer.push_blob(config, raw)
    return config
