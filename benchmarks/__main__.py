"""`python -m benchmarks`: the startup suite, or what of it is named first, as `micro` or `size`."""

import sys
from importlib import import_module

from benchmarks.measure import compile_tools
from fs.reporting import reporting

#: The suite itself has no name.
_PARTS = {
    "micro": "benchmarks.micro.run",
    "coverage": "benchmarks.coverage",
    "grain": "benchmarks.grain",
    "convert": "benchmarks.convert",
    "levels": "benchmarks.levels",
    "size": "benchmarks.size",
}


def _main() -> int:
    words = sys.argv[1:]
    compile_tools()
    if not words or words[0] not in _PARTS:
        return int(import_module("benchmarks.suite.cli").main(words))
    return int(import_module(_PARTS[words[0]]).main(words[1:]))


sys.exit(reporting("bench", _main))
