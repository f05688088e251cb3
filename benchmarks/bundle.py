"""A runtime bundle from an OCI layout, in full, by umoci: `python -m benchmarks.bundle`.

What it replaces lazily mounted images with in comparisons: unpack first, then run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.measure import run_to_end


def make_bundle(layout: str, tag: str, bundle: Path) -> None:
    """Unpack the image and make its configuration one that needs no terminal."""
    run_to_end(["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)])
    file = bundle / "config.json"
    configuration = json.loads(file.read_text())
    configuration["process"]["terminal"] = False
    file.write_text(json.dumps(configuration))


if __name__ == "__main__":
    make_bundle(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
