"""What digest references were found to mean: enough to mount them again while no registry answers.

    CACHE/images/<hash of reference and platform>.json

A digest never comes to mean something else, so a record never grows old; names by tag
have none. `local` says that every chunk of the image was in the cache: then nobody is asked
at all. Chunks that were evicted since are fetched when they are read, as ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from typing import Any

from fs.format.errors import UsageError
from fs.registry.reference import parse_reference

log = logging.getLogger(__name__)

_FIELDS = ("bootstrap", "manifest_digest", "image_config")
_LIMIT = 16 << 20
_OTHER_PLACES = ("oci:", "oci-archive:", "docker-archive:", "containerd:")


class ImageRecord:
    """The record of one source in one cache directory. `exists` is false for names by tag."""

    def __init__(self, cache_dir: str, source: str, platform: str | None) -> None:
        self._path: str | None = None
        if source.startswith(_OTHER_PLACES):
            return
        with suppress(UsageError):
            reference = parse_reference(source.removeprefix("docker://"))
            if reference.digest:
                key = f"{reference.name}@{reference.digest} {platform or ''}"
                name = hashlib.sha256(key.encode()).hexdigest()[:32] + ".json"
                self._path = os.path.join(cache_dir, "images", name)

    def read(self) -> dict[str, Any] | None:
        """`bootstrap`, `manifest_digest`, `image_config`, `local`; None when it is of no use."""
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                fields = json.loads(file.read(_LIMIT))
        except (OSError, ValueError):
            return None
        if not isinstance(fields, dict) or not {*_FIELDS, "local"} <= fields.keys():
            return None
        return fields if os.path.isfile(str(fields["bootstrap"])) else None

    def write(self, fields: dict[str, Any], *, local: bool) -> None:
        """Replace it whole; a disk that refuses costs a request at a later mount."""
        if self._path is None:
            return
        content = json.dumps({name: fields[name] for name in _FIELDS} | {"local": local})
        directory = os.path.dirname(self._path)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(file.name, self._path)
        except OSError as error:
            log.warning("%s: %s", self._path, error.strerror)

    def mark_local(self) -> None:
        """Every chunk is here."""
        fields = self.read()
        if fields is not None and not fields["local"]:
            self.write(fields, local=True)
