"""Starting a recipe's image and waiting until it is ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.images.recipe import Recipe
from benchmarks.images.tree import APP
from nydusify.startup.readiness import Exit, Outcome, Program
from nydusify.startup.recording import Recording

TIMEOUT = 300.0


def run_options(recipe: Recipe) -> list[str]:
    """What `lazyrun run` (or docker, or podman) is told before the image."""
    options = ["--rm", "--interactive"]
    for setting in recipe.run.environment:
        options += ["--env", setting]
    for name, target in recipe.run.mounts:
        options += ["--volume", f"{APP / recipe.name / name}:{target}:ro"]
    return options


def recording(recipe: Recipe) -> Recording:
    """The same for `nydusify.startup.recording.record`."""
    run = recipe.run
    options = run_options(recipe)[2:]  # those that every recording has
    stdin = run.stdin if run.kind == "stdin" else None
    return Recording(run.ready, TIMEOUT, options, run.arguments, stdin)


def start(
    recipe: Recipe, command: Sequence[str], when_ready: Callable[[], None] | None = None
) -> Outcome:
    """Run `command`, which starts the image, until it is ready; then call, then end it.

    NotReadyError. A program that reads a script gets it and the end of its input;
    others keep their input open.
    """
    run = recipe.run
    script = run.kind == "stdin"
    with Program([*command], run.stdin, hold=not script) as program:
        outcome = program.wait_until(run.ready, TIMEOUT)
        if when_ready:
            when_ready()
        code = program.end()
    if isinstance(run.ready, Exit) and code:
        raise RuntimeError(f"{recipe.name} ended with {code}: {program.output[-500:]}")
    return outcome
