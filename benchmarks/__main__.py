"""`python -m benchmarks`: the startup suite, or what of it is named first, as `micro` or `size`."""

import sys

if sys.argv[1:2] == ["micro"]:
    from benchmarks.micro.run import main

    sys.exit(main(sys.argv[2:]))

if sys.argv[1:2] == ["coverage"]:
    from benchmarks.coverage import main as coverage

    sys.exit(coverage(sys.argv[2:]))

if sys.argv[1:2] == ["convert"]:
    from benchmarks.convert import main as convert

    sys.exit(convert(sys.argv[2:]))

if sys.argv[1:2] == ["size"]:
    from benchmarks.size import main as size

    sys.exit(size(sys.argv[2:]))

from benchmarks.suite.cli import main

sys.exit(main())
