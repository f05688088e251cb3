"""`python -m benchmarks startup`: bytes and requests until ready, by what is known of the start.

Each image is converted into a registry on loopback and started by lazyrun from an empty cache:
without a guess; with what was guessed listed to be read first; with little of it copied to a blob
of its own, as convert does, and with all of it; with a recorded start copied so. What was fetched
is counted by the registry's own log. A second table has the sizes of these images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.blocks import write_block
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.images.recipe import Recipe
from benchmarks.images.start import recording, run_options, start
from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import drop_caches, program, run_to_end
from benchmarks.record import machine
from benchmarks.services import Registry, registry
from fs.registry.store import StoreOptions
from nydusify.startup.recording import record

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
DOCUMENT = REPOSITORY / "docs/startup-set.md"


@dataclass(frozen=True)
class Start:
    """One cold start. Bytes as sent by the registry until the image was ready."""

    image: str
    mode: str
    fetched_bytes: int
    requests: int
    seconds: float
    size: float
    """of the image, as stored, in parts of its source's"""


@dataclass(frozen=True)
class Made:
    """An image in the registry, and its size in parts of its source's."""

    mode: str
    name: str
    size: float


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--images", metavar="A,B", help="only these (default: all)")
    top.add_argument("--quick", action="store_true", help="only a few")
    top.add_argument("--mbit", type=int, metavar="N", help="let the network have N Mbit/s")
    top.add_argument("--record", action="store_true", help="renew the table in the docs")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return top


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    recipes = chosen(arguments.images, quick=arguments.quick)
    images = {each.name: cached_image(each, CACHE / "images", _say) for each in recipes}
    isolate("benchmarks", ["startup", *argv], network=True, megabits=arguments.mbit)
    starts: list[Start] = []
    with (
        tempfile.TemporaryDirectory(dir=CACHE, prefix="startup-") as name,
        registry(Path(name)) as server,
    ):
        for recipe in recipes:
            _say(recipe.name)
            starts += _starts(recipe, images[recipe.name], server, Path(name))
    if left := left_behind():
        raise RuntimeError(f"processes were left behind: {left}")
    print(table(starts, seconds=True), sizes(starts), sep="\n\n")
    if arguments.record:
        text = f"{table(starts)}\n\n{sizes(starts)}\n\n({machine()}; network: loopback)"
        write_block(DOCUMENT, "python -m benchmarks startup --record", text)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": machine(), "starts": [asdict(each) for each in starts]})
        )
    return 0


def _say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


def _starts(recipe: Recipe, image: Path, server: Registry, work: Path) -> list[Start]:
    made = [
        _converted(image, f"{server.host}/{recipe.name}:{option}", mode, option, work)
        for mode, option in (
            ("no guess", "none"), ("listed", "guess"), ("default", "auto"), ("copied", "blob"),
        )
    ]  # fmt: skip
    made.append(_recorded(recipe, made[1], f"{server.host}/{recipe.name}:recorded", work))
    return [_start(recipe, each, server, work) for each in made]


def _converted(image: Path, name: str, mode: str, startup: str, work: Path) -> Made:
    figures = work / "figures.json"
    run_to_end(
        [program("nydusify"), "convert", "--source", f"oci:{image}:{TAG}", "--target", name,
         "--startup", startup, "--output-json", str(figures)]
    )  # fmt: skip
    told = json.loads(figures.read_text())
    return Made(mode, name, told["target_size"] / told["source_size"])


def _recorded(recipe: Recipe, source: Made, name: str, work: Path) -> Made:
    trace, figures = work / f"{recipe.name}.trace", work / "figures.json"
    with tempfile.TemporaryDirectory(dir=work) as place:
        record(source.name, StoreOptions(), recording(recipe), Path(place), trace)
    run_to_end(
        [program("nydusify"), "optimize", "--source", source.name, "--target", name,
         "--trace", str(trace), "--output-json", str(figures)]
    )  # fmt: skip
    told = json.loads(figures.read_text())
    growth = 1 + told["pushed"] / (told["target_size"] - told["pushed"])
    return Made("recorded", name, source.size * growth)


def _start(recipe: Recipe, image: Made, server: Registry, work: Path) -> Start:
    """One start from nothing, and what the registry had sent when the image was ready."""
    with tempfile.TemporaryDirectory(dir=work, prefix="root-") as root:
        command = [program("lazyrun"), "run", "--root", root, *run_options(recipe), image.name]
        drop_caches()
        before = server.traffic()
        at_ready = before

        def count() -> None:
            nonlocal at_ready
            at_ready = server.traffic()

        outcome = start(recipe, [*command, *recipe.run.arguments], count)
    return Start(
        recipe.name,
        image.mode,
        at_ready.sent_bytes - before.sent_bytes,
        at_ready.requests - before.requests,
        outcome.ready,
        image.size,
    )


def table(starts: Sequence[Start], *, seconds: bool = False) -> str:
    """One line an image: requests and megabytes of each mode, and seconds if wanted."""
    modes = list(dict.fromkeys(each.mode for each in starts))
    head = f"{'requests':>10}{'MB':>7}" + (f"{'s':>7}" if seconds else "")
    lines = [f"{'until ready':<12}" + "".join(f"{mode:>{len(head)}}" for mode in modes)]
    lines.append(f"{'':<12}" + head * len(modes))
    for image in dict.fromkeys(each.image for each in starts):
        row = {each.mode: each for each in starts if each.image == image}
        cells = [_cell(row[mode], seconds=seconds) for mode in modes]
        lines.append(f"{image:<12}" + "".join(cells))
    return "\n".join(lines)


def _cell(start: Start, *, seconds: bool) -> str:
    text = f"{start.requests:>10}{start.fetched_bytes / 1e6:>7.1f}"
    return text + (f"{start.seconds:>7.2f}" if seconds else "")


def sizes(starts: Sequence[Start]) -> str:
    """One line an image: the size of each mode's, in parts of the plain image's."""
    modes = list(dict.fromkeys(each.mode for each in starts))
    lines = [f"{'stored size':<12}" + "".join(f"{mode:>17}" for mode in modes)]
    for image in dict.fromkeys(each.image for each in starts):
        row = {each.mode: each for each in starts if each.image == image}
        lines.append(f"{image:<12}" + "".join(f"{row[mode].size:>17.3f}" for mode in modes))
    return "\n".join(lines)
