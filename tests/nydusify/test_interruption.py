"""Signals end a conversion in whatever moment they come, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nydusify.interruption import Interrupted, Unwinding
from nydusify.report import Silence
from tests.parts.layers import LayerTar
from tests.parts.waiting import PATIENCE


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_lost_interruption_comes_again() -> None:
    """Python drops what is raised in a finalizer."""

    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(10))  # the handler runs between instructions

    unwinding = Unwinding(Silence())
    before = signal.getsignal(signal.SIGTERM)
    with unwinding.entered():
        unwinding.advance(1)
        Finalized()
        with pytest.raises(Interrupted) as raised:
            unwinding.advance(1)
        os.kill(os.getpid(), signal.SIGTERM)  # does not disturb the clearing up
    assert raised.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    fifo, work = tmp_path / "l", tmp_path / "work"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "nydusify.cli", "convert", "--source", f"layer:{fifo}",
         "--target", f"oci:{tmp_path}/out", "--work-dir", str(work)],
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    with fifo.open("wb") as feed:
        feed.write(LayerTar().add("a", data=os.urandom(3 << 20)).tar()[:-5000])
        feed.flush()
        process.send_signal(number)
    assert process.communicate(timeout=PATIENCE)[1] == "nydusify: interrupted\n"
    assert process.returncode == 128 + number
    assert list(work.iterdir()) == []
    assert not (tmp_path / "out").exists()
