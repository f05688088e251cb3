"""The store's own failures: the rest of containerd's contract is in the common tree.

containerd's words: not found is NotFoundError, already exists and failed
precondition are the two here, an invalid argument is a UsageError.
"""

from __future__ import annotations

from fs.format.errors import UsageError


class SnapshotExistsError(UsageError):
    """The key or name is taken."""


class SnapshotStateError(UsageError):
    """The snapshot's kind or its children forbid what was asked."""
