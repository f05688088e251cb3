"""What the parts of the benchmarks share: their arguments, and where their figures go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.blocks import write_block
from benchmarks.record import machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
CHOICES = REPOSITORY / "docs/choices.md"


def parser(
    part: str, description: str | None, images: str | None = None
) -> argparse.ArgumentParser:
    """Of `python -m benchmarks PART`; `images` are those of who names none, None is all."""
    top = argparse.ArgumentParser(
        prog=f"python -m benchmarks {part}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    told = f"(default: {images})" if images else "only these (default: all)"
    top.add_argument("--images", metavar="A,B", default=images, help=told)
    top.add_argument("--record", action="store_true", help="renew the table in the docs")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return top


def say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


def conclude(
    arguments: argparse.Namespace,
    part: str,
    rows: Sequence[DataclassInstance],
    table: str,
    document: Path = CHOICES,
    mode: str = "",
) -> None:
    """Print the table, and put it and the figures where `arguments` want them.

    `mode` is the option that the figures are of.
    """
    text = f"{table}\n\n({machine()})"
    print(text)
    if arguments.record:
        words = ["python -m benchmarks", part, mode, "--record"]
        write_block(document, " ".join(filter(None, words)), text)
    if arguments.json:
        told = {"machine": machine(), part: [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")
