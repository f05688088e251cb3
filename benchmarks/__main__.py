"""`python -m benchmarks`: the demo's measurement, or `micro` for single operations."""

import sys

if sys.argv[1:2] == ["micro"]:
    from benchmarks.micro.run import main

    sys.exit(main(sys.argv[2:]))

from benchmarks.demo import main

sys.exit(main())
