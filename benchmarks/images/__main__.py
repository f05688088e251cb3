"""`python -m benchmarks.images`: build the images of the catalogue as OCI layouts.

With --start each is also converted and started by lazyrun from an empty cache,
until it is ready. Each lies below .cache/images/, tagged `plain`, and is printed as a source for
`nydusify convert`. With DIR (`./dev image DIR`) the demo's image, copied there.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import RECIPES, chosen
from benchmarks.images.catalogue.languages import FLASK
from benchmarks.images.recipe import Recipe
from benchmarks.images.start import run_options, start
from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import drop_caches, program, run_to_end
from fs.reporting import reporting

CACHE = Path(__file__).resolve().parents[2] / ".cache/images"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("directory", type=Path, metavar="DIR", nargs="?")
    top.add_argument("--list", action="store_true", help="names and how each is run")
    top.add_argument("--images", metavar="A,B", help="only these (default: all)")
    top.add_argument("--quick", action="store_true", help="only a few")
    top.add_argument(
        "--alpine", type=Path, metavar="FILE", help="the root file system of one more image, a tar"
    )
    top.add_argument("--start", action="store_true", help="also start each, from an empty cache")
    return top


def _main() -> int:
    arguments = parser().parse_args()
    if arguments.list:
        for recipe in RECIPES.values():
            print(f"{recipe.name:12}{recipe.run.kind:12}{' '.join(recipe.run.arguments)}")
        return 0
    try:
        recipes = chosen(arguments.images, quick=arguments.quick, alpine_file=arguments.alpine)
    except (LookupError, OSError) as error:
        said = error.args[0] if isinstance(error, LookupError) else error
        print(f"images: {said}", file=sys.stderr)
        return 2
    if arguments.directory:
        image = cached_image(FLASK, CACHE, say)
        shutil.copytree(image, arguments.directory, dirs_exist_ok=True)
        print(f"oci:{arguments.directory}:{TAG}")
        return 0
    images = {}
    for recipe in recipes:
        images[recipe.name] = cached_image(recipe, CACHE, say)
        if not arguments.start:
            print(f"oci:{images[recipe.name]}:{TAG}", flush=True)
    if arguments.start:
        isolate("benchmarks.images", sys.argv[1:], network=True)
        for recipe in recipes:
            start_cold(recipe, images[recipe.name])
        if left := left_behind():
            raise RuntimeError(f"processes were left behind: {left}")
    return 0


def start_cold(recipe: Recipe, image: Path) -> None:
    """Convert to a layout, start by lazyrun, and print the seconds."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="start-") as name:
        nydus = f"oci:{name}/nydus:{TAG}"
        run_to_end(
            [program("nydusify"), "convert", "--source", f"oci:{image}:{TAG}", "--target", nydus]
        )
        drop_caches()
        command = [program("lazyrun"), "run", "--root", f"{name}/root", *run_options(recipe)]
        outcome = start(recipe, [*command, nydus, *recipe.run.arguments])
        print(f"{recipe.name:12}{recipe.run.kind:12}{outcome.ready:6.2f} s", flush=True)


def say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(reporting("images", _main))
