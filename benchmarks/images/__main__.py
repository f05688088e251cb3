"""`./dev image DIR`: the demo's image as an OCI layout in DIR, tagged `plain`."""

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.images.build import TAG, cached_image
from benchmarks.images.recipe import FLASK

CACHE = Path(__file__).resolve().parents[2] / ".cache/images"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev image", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    directory = parser.parse_args().directory
    image = cached_image(FLASK, CACHE, lambda text: print(f"· {text}", flush=True))
    shutil.copytree(image, directory, dirs_exist_ok=True)
    print(f"oci:{directory}:{TAG}")
    return 0


sys.exit(main())
