"""Manifests that name another one as their subject: found by its digest.

Registries list them at /v2/<name>/referrers/<digest>. Where that is not known, clients keep
the list themselves, as an index under the tag <algorithm>-<hex> of the subject
(OCI distribution specification 1.1, "Referrers Tag Schema"). Two clients that write such
a list at once may lose one of the entries; the manifests themselves are not touched.
"""

from __future__ import annotations

import json
from typing import Any

from fs.format.errors import FormatError, NotFoundError
from fs.registry.client import RegistryClient
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import Index, Manifest, parse_manifest
from fs.registry.mediatypes import OCI_INDEX


def fallback_tag(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}-{encoded}"[:128]


def find_referrers(client: RegistryClient, digest: str) -> list[Descriptor]:
    """One attempt at what refers to `digest`; what the list says is not verified."""
    where = f"{client.reference.name}: referrers of {digest}"
    try:
        raw = client.referrers(digest)
    except NotFoundError:
        try:
            raw = client.manifest(fallback_tag(digest))[0]
        except NotFoundError:
            return []
    return _index(raw, where).manifests


def describe_referrer(manifest: Manifest) -> Descriptor:
    """The entry of a list of referrers."""
    return Descriptor(
        manifest.media_type,
        manifest.digest,
        len(manifest.raw),
        manifest.annotations,
        artifact_type=manifest.artifact_type or manifest.config.media_type,
    )


def add_to_fallback(client: RegistryClient, subject: str, manifest: Manifest) -> None:
    """Put `manifest`, which is stored already, in the list that clients keep of `subject`."""
    tag = fallback_tag(subject)
    entries: list[dict[str, Any]] = []
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
    try:
        raw = client.retry.run(lambda: client.manifest(tag)[0])
    except NotFoundError:
        pass
    else:
        known = _index(raw, f"{client.reference.name}: {tag}")
        document = json.loads(raw)
        if any(entry.digest == manifest.digest for entry in known.manifests):
            return
        entries = document["manifests"]
    document["manifests"] = [*entries, describe_referrer(manifest).to_json()]
    client.put_manifest(tag, json.dumps(document).encode(), OCI_INDEX)


def _index(raw: bytes, where: str) -> Index:
    document = parse_manifest(raw, None, where)
    if not isinstance(document, Index):
        raise FormatError("is no index", where)
    return document
