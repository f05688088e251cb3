"""`lazyrun run`: one container from its making to the last trace of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn

from fs import mounts
from fs.daemon.launch import MountOptions
from fs.format.errors import AccessError, NotFoundError, UsageError, local_errors
from runner import capabilities, mountplan, process, settings, syscalls
from runner.etcfiles import write_etc_files
from runner.image import ROOTFS, RunnerImages, prepare_image
from runner.mountplan import Step
from runner.rootfs import set_propagation
from runner.signals import ENDING, Interrupted, Signals
from runner.state import EXITED, RUNNING, ContainerRecord, Containers, start_time
from runner.supervise import supervise
from runner.timings import Timings
from runner.users import User, find_user
from snapshotter.extractions import remove_abandoned
from snapshotter.initlayer import make_init_layer
from snapshotter.overlay import Layers, mount_layers
from snapshotter.store import Store

_KILLED = 137


class RunOptions(NamedTuple):
    """What the command line asks for; texts as the user wrote them, mounts parsed."""

    image: str
    command: tuple[str, ...]
    root: str
    mount: MountOptions
    rootfs: bool = False
    name: str | None = None
    remove: bool = False
    interactive: bool = False
    tty: bool = False
    with_init: bool = False
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: str | None = None
    steps: tuple[Step, ...] = ()
    read_only: bool = False
    hostname: str | None = None
    own_network: bool = False
    add_hosts: tuple[str, ...] = ()
    capabilities: int = capabilities.mask(capabilities.DEFAULT)
    no_new_privileges: bool = False
    shm_size: str = "64m"
    timings: str | None = None
    token: str = ""
    """By which the daemon knows that it was told of the image before."""


def run(options: RunOptions) -> int:
    """Run a container; its exit code. Raises Failure where there was none to be had."""
    if os.geteuid() != 0:
        raise AccessError("needs root: it makes namespaces and mounts")
    if options.tty and options.interactive and not os.isatty(0):
        raise UsageError("-i -t: standard input is not a terminal")
    containers = Containers(options.root)
    with Store(
        os.path.join(containers.root, "store"), RunnerImages(options.mount, options.token)
    ) as store:
        sweep(containers, store)
        with _interruptible() as caught:
            return _run(options, containers, store, caught)


def _run(options: RunOptions, containers: Containers, store: Store, caught: Sequence[int]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until there is a record to clear up
    record = containers.create(
        options.name,
        image=options.image,
        command=list(options.command),
        remove=options.remove,
        owner=os.getpid(),
    )
    code = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        timings = Timings(options.timings)
        started, signals = _start(options, record, store, caught, timings)
        with _killed_on_failure(started.pid):
            timings.write()
            record.save(status=RUNNING, pid=started.pid, pid_started=start_time(started.pid))
            code = supervise(started, signals, interactive=options.interactive)
    except Interrupted as signalled:
        return 128 + signalled.number
    finally:
        _ignore_signals()
        finish(record, store, code)
    return code


@contextmanager
def _killed_on_failure(pid: int) -> Iterator[None]:
    """A container never outlives the one that has to clear up after it."""
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _start(
    options: RunOptions,
    record: ContainerRecord,
    store: Store,
    caught: Sequence[int],
    timings: Timings,
) -> tuple[process.Started, Signals]:
    source = ROOTFS + os.path.realpath(options.image) if options.rootfs else options.image
    timings.reached("runner")
    image, document = prepare_image(store, f"{record.id}/image", source, options.mount)
    timings.reached("image")
    chosen = settings.image_settings(document, options.image)
    hostname = options.hostname or (record.id if options.own_network else os.uname().nodename)
    files = write_etc_files(record, hostname, options.own_network, options.add_hosts)
    steps = mountplan.plan(options.steps, files, options.shm_size)
    _make_sources(steps)
    arguments = settings.command_line(chosen, options.entrypoint, options.command)
    environment = settings.environment(
        chosen, options.env, hostname=hostname, tty=options.tty, outer=os.environ
    )
    workdir = settings.working_directory(chosen, options.workdir)
    root = record.path("rootfs")
    with _private_mounts():
        _mount_root(store, record, image, root, steps)
        user = _find_user(root, chosen.user if options.user is None else options.user)
        environment.setdefault("HOME", user.home)
        container = process.Container(
            root,
            tuple(steps),
            arguments,
            environment,
            workdir,
            user,
            options.capabilities,
            hostname,
            options.own_network,
            options.read_only,
            options.no_new_privileges,
            options.interactive,
            options.tty,
            options.with_init,
        )
        signals = Signals()
        if caught:  # and lost: Python drops what is raised in a callback, as of an import
            raise Interrupted(caught[0])
        timings.reached("root")
        started = process.start(container, signals)
        timings.reached("executed")
        return started, signals


def _make_sources(steps: list[Step]) -> None:
    """As docker, a host directory given to -v that does not exist is made."""
    for step in steps:
        if step.fstype == mountplan.BIND and not step.is_file:
            with local_errors(step.source):
                os.makedirs(step.source, exist_ok=True)


def _mount_root(
    store: Store, record: ContainerRecord, image: str, root: str, steps: list[Step]
) -> None:
    """Stack image, Init layer and a new writable layer, and mount them at `root`."""
    top = [step for step in steps if not step.target.startswith("/dev/")]
    directories = [step.target for step in top if not step.is_file]
    files = [step.target for step in top if step.is_file]
    init = f"{record.id}/init"
    make_init_layer(store, init, image, root, directories, files)
    store.prepare(record.id, init)
    layers: Layers = store.layers(record.id)
    record.save(upper=layers.upper)
    mount_layers(layers, root, nodev=True, volatile=bool(record.state["remove"]))


def _find_user(root: str, text: str) -> User:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return find_user(descriptor, text)
    finally:
        os.close(descriptor)


@contextmanager
def _private_mounts() -> Iterator[None]:
    """What is mounted inside is seen by us and our children only, and ends with us.

    setns also resets root and working directory, to which a chrooted process returns.
    """
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    current = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        try:
            set_propagation(mounts.MS_SLAVE)
            yield
        finally:
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(current)
    finally:
        for descriptor in (namespace, root, current):
            os.close(descriptor)


def sweep(containers: Containers, store: Store) -> None:
    """Clear up after every lazyrun that was killed."""
    for record in containers.abandoned():
        record.kill()
        finish(record, store, _KILLED)
    remove_abandoned(store)


def finish(record: ContainerRecord, store: Store, code: int | None) -> None:
    """The container has ended: remove it, or keep what it wrote. `code` None: it never ran."""
    try:
        if code is None or record.state["remove"]:
            remove(record, store)
        else:
            with suppress(NotFoundError):
                store.detach(f"{record.id}/image")
            record.save(status=EXITED, exit_code=code, pid=None)
    finally:
        record.release()


def remove(record: ContainerRecord, store: Store) -> None:
    """Remove a container that is not running."""
    for name in (record.id, f"{record.id}/init/new", f"{record.id}/init", f"{record.id}/image"):
        with suppress(NotFoundError):
            store.remove(name)
    record.delete()


@contextmanager
def _interruptible() -> Iterator[Sequence[int]]:
    """The signals that end a program raise Interrupted, so that everything is undone.

    Yields the numbers of those that have come.
    """
    caught: list[int] = []

    def interrupt(number: int, frame: object) -> NoReturn:
        caught.append(number)
        raise Interrupted(number)

    previous = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """What is left to do is clearing up."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
