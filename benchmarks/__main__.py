"""`python -m benchmarks`: runs the benchmarks there are; today that is the demo's measurement."""

import sys

from benchmarks.demo import main

sys.exit(main())
