"""Failures on their way from one process to another: class and message."""

from __future__ import annotations

from collections.abc import Mapping

from fs.format import errors
from fs.format.errors import Failure


def failure_to(failure: Failure) -> dict[str, str]:
    kind = next(kind for kind in type(failure).__mro__ if kind.__module__ == errors.__name__)
    return {"class": kind.__name__, "message": failure.message}


def failure_from(fields: Mapping[str, str]) -> Failure:
    """The failure as the class of `fs.format.errors` that it was, or that it came from."""
    kind = getattr(errors, fields["class"], Failure)
    if not (isinstance(kind, type) and issubclass(kind, Failure)):
        kind = Failure
    return kind(fields["message"])
