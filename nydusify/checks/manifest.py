"""The manifest and the configuration agree with each other, with the bootstrap, with the source.

That their bytes have their digests was verified when they were read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fs.format.bootstrap import Bootstrap
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import (
    NYDUS_BLOB_ANNOTATION,
    NYDUS_BOOTSTRAP_ANNOTATION,
    NYDUS_FS_VERSION_ANNOTATION,
    UNCOMPRESSED_ANNOTATION,
)
from fs.registry.mediatypes import NYDUS_BLOB
from fs.registry.store import Image
from nydusify.checks.findings import Findings

_RULE = "manifest"
_REF = "containerd.io/snapshot/nydus-ref"
_IDS = "containerd.io/snapshot/nydus-reference-blob-ids"


def check_image(image: Image, findings: Findings) -> None:
    """What an ordinary image must have."""
    layers, diff_ids = image.manifest.layers, image.config.diff_ids
    findings.expect(_RULE, "diff IDs", len(diff_ids), len(layers))


def check_nydus(
    image: Image, bootstrap: Bootstrap, bootstrap_diff_id: str, findings: Findings
) -> None:
    """What a Nydus image must have besides. `bootstrap_diff_id` is of the layer's content."""
    layers, diff_ids = image.manifest.layers, image.config.diff_ids
    last = layers[-1]
    if NYDUS_BOOTSTRAP_ANNOTATION not in last.annotations:
        findings.add(_RULE, "the last layer is not the bootstrap")
        return
    for number, layer in enumerate(layers[:-1], 1):
        _check_blob_layer(number, layer, findings)
    if len(diff_ids) == len(layers):
        findings.expect(_RULE, "diff ID of the bootstrap layer", diff_ids[-1], bootstrap_diff_id)
        for layer, diff_id in zip(layers[:-1], diff_ids, strict=False):
            if layer.media_type == NYDUS_BLOB and _REF not in layer.annotations:
                findings.expect(_RULE, "diff ID of a blob layer", diff_id, layer.digest)
    _check_annotations(last, bootstrap, bootstrap_diff_id, findings)
    _check_blobs_are_there(layers[:-1], bootstrap, findings)


def _check_blob_layer(number: int, layer: Descriptor, findings: Findings) -> None:
    if _REF in layer.annotations:
        return
    if layer.media_type != NYDUS_BLOB:
        findings.add(_RULE, f"layer {number} is no Nydus blob but {layer.media_type}")
    elif NYDUS_BLOB_ANNOTATION not in layer.annotations:
        findings.add(_RULE, f"layer {number} lacks the annotation {NYDUS_BLOB_ANNOTATION}")


def _check_annotations(
    layer: Descriptor, bootstrap: Bootstrap, diff_id: str, findings: Findings
) -> None:
    """Those of the bootstrap layer, as far as it has them."""
    told = layer.annotations
    expected: dict[str, object] = {
        NYDUS_FS_VERSION_ANNOTATION: str(bootstrap.version),
        UNCOMPRESSED_ANNOTATION: diff_id,
    }
    for name, value in expected.items():
        if name in told:
            findings.expect(_RULE, f"annotation {name}", told[name], value)
    if _IDS in told:
        try:
            ids = json.loads(told[_IDS])
        except ValueError:
            ids = None
        # As text: what is there may be anything.
        blobs = sorted(blob.blob_id for blob in bootstrap.blobs)
        same = isinstance(ids, list) and sorted(map(str, ids)) == blobs
        findings.expect(_RULE, f"annotation {_IDS} names the bootstrap's blobs", same, True)


def _check_blobs_are_there(
    layers: list[Descriptor], bootstrap: Bootstrap, findings: Findings
) -> None:
    """Each blob of the bootstrap is a layer, unless none is: then they are kept elsewhere."""
    there = {layer.digest.removeprefix("sha256:") for layer in layers}
    there |= {layer.annotations[_REF].removeprefix("sha256:") for layer in layers
              if _REF in layer.annotations}  # fmt: skip
    if not there and bootstrap.blobs:
        findings.notes.append("the manifest has no blob layers: blobs are kept elsewhere")
        return
    for blob in bootstrap.blobs:
        if blob.blob_id not in there:
            findings.add(_RULE, f"blob {blob.blob_id} of the bootstrap is no layer")


def check_config(source: Mapping[str, Any], target: Mapping[str, Any], findings: Findings) -> None:
    """What containers get of the configuration is what they got of the source's."""
    for key in ("architecture", "os", "variant"):
        findings.expect(_RULE, key, target.get(key) or "", source.get(key) or "")
    old, new = source.get("config") or {}, target.get("config") or {}
    for key in sorted({*old, *new} - {"ArgsEscaped"}):
        findings.expect(_RULE, f"configuration: {key}", new.get(key), old.get(key))
