"""Tests. Every folder says in its `__init__.py` what it tests.

format, registry, backend, cache, image, drivers, daemon    the parts of `fs`
kinds, reads               what readers get: by kind of blob, and by other people's tools
nydusify, verbs, startup   conversion; the verbs on real images; the guess of what a start reads
snapshotter, runner, benchmarks
e2e                        the whole path, by the commands that users call
scale, soak, interop       run on request: `./dev scale`, `./dev soak`, `./dev interop`
house                      what holds for the repository itself
parts                      no tests: the servers, trees and images that several folders use
"""
