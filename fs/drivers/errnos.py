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
        except pyfuse3.FUSEError:
            raise
        except Failure as failure:
            raise pyfuse3.FUSEError(errno_of(failure)) from failure
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return guarded


def errno_of(failure: Failure) -> int:
    """ENOENT for what the image does not have; EIO, with a log line, for what it cannot give."""
    if isinstance(failure, NotFoundError):
        return errno.ENOENT
    log.error("%s", failure)
    return errno.EIO
