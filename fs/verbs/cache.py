"""`nydus-fs cache`: what the cache directory holds, making room, checking it."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

from fs.cache import inventory
from fs.daemon.order import default_cache_dir
from fs.format.errors import StorageError, VerifyError


def run(arguments: argparse.Namespace) -> int:
    directory = os.path.join(arguments.cache_dir or default_cache_dir(), "blobs")
    verbs: dict[str, Callable[[str, argparse.Namespace], int]] = {
        "ls": _ls,
        "prune": _prune,
        "verify": _verify,
    }
    try:
        return verbs[arguments.cache_verb](directory, arguments)
    except OSError as error:
        raise StorageError(f"cache {directory}: {error.strerror}") from error


def _ls(directory: str, arguments: argparse.Namespace) -> int:
    found = inventory.survey(directory)
    if arguments.json:
        print(json.dumps([held._asdict() for held in found]))
        return 0
    for held in found:
        used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held.last_use))
        notes = "  in use" if held.in_use else ""
        notes += "  given to a kernel" if held.frozen else ""
        print(
            f"{held.blob}  {held.ready} of {held.chunks} chunks  "
            f"{held.allocated} bytes  used {used}{notes}"
        )
    return 0


def _prune(directory: str, arguments: argparse.Namespace) -> int:
    freed = inventory.prune(directory, arguments.size)
    print(json.dumps({"freed_bytes": freed}) if arguments.json else f"{freed} bytes freed")
    return 0


def _verify(directory: str, arguments: argparse.Namespace) -> int:
    verdicts = list(inventory.verify(directory))
    if arguments.json:
        print(json.dumps([verdict._asdict() for verdict in verdicts]))
    else:
        for verdict in verdicts:
            print(f"{verdict.blob}  {_finding(verdict)}")
    return VerifyError.exit_code if any(verdict.wrong for verdict in verdicts) else 0


def _finding(verdict: inventory.Verdict) -> str:
    if not verdict.known:
        return "not known what its chunks must hash to: checked when it is read"
    if verdict.wrong:
        return f"{verdict.wrong} of {verdict.checked} chunks were wrong and will be fetched again"
    return f"{verdict.checked} chunks are right"
