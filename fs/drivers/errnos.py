"""The one place where failures become errnos.

A pyfuse3 handler may raise nothing but FUSEError: any other exception would end
the whole mount. `Cancelled` is no Exception and passes.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from fs.drivers.instances import NameTooLongError
from fs.format.errors import Failure, NotFoundError

log = logging.getLogger(__name__)

Args = ParamSpec("Args")
Answer = TypeVar("Answer")


def errno_boundary(
    handler: Callable[Args, Coroutine[Any, Any, Answer]],
) -> Callable[Args, Coroutine[Any, Any, Answer]]:
    """`handler`, raising only FUSEError."""

    @functools.wraps(handler)
    async def guarded(*args: Args.args, **kwargs: Args.kwargs) -> Answer:
        try:
            return await handler(*args, **kwargs)
        except Exception as error:
            raise pyfuse3.FUSEError(errno_of(error)) from error

    return guarded


def errno_of(error: Exception) -> int:
    """ENOENT for what the image does not have; EIO, with a log line, for what it cannot give.

    Anything else is a defect of ours: EIO, and a traceback in the log.
    """
    if isinstance(error, pyfuse3.FUSEError):
        return error.errno
    if isinstance(error, NameTooLongError):
        return errno.ENAMETOOLONG
    if isinstance(error, NotFoundError):
        return errno.ENOENT
    if isinstance(error, Failure):
        log.error("%s", error)
    else:
        log.error("a request failed", exc_info=error)
    return errno.EIO
