"""Runs side by side in processes of this machine that live through many of them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from pebble import ProcessExpired, ProcessPool

from ftbench.errors import FtbenchError
from ftbench.executors.contract import GRACE, Listener, Records, Work, out_of_time
from ftbench.records import RunRecord, RunSpec

_LOOK_EVERY = 0.2  # seconds between looks at steps and clocks
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


class Workers:
    """A process for each of ``places``, the devices that runs are carried out on.

    A process that dies costs the run that it carried out, whose record says so, and is replaced. A
    run that takes longer than the work allows is ended, wherever it is. No worker outlives this
    process, however it ends.
    """

    shares_process = False

    def __init__(self, places: Sequence[str], *, preload: Sequence[str] = ()) -> None:
        """``preload`` names modules that are imported once for all workers."""
        self._places = list(places)
        self._preload = list(preload)
        self.at_once = len(self._places)
        self.shares_device = len(set(places)) < len(self._places)

    def map(self, runs: Iterable[RunSpec], work: Work, listener: Listener) -> Records:
        """Yield each run's record as it ends; a run starts when a worker is free for it."""
        context = _context(self._preload)
        shipped = _pickled(work)
        workers = [_Worker(place, context, shipped) for place in self._places]
        waiting = iter(runs)
        try:
            busy = [worker for worker in workers if worker.start_next(waiting, listener)]
            while busy:
                futures = [worker.future for worker in busy]
                wait(futures, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)
                for worker in list(busy):
                    worker.look(listener)
                    record = worker.record(work)
                    if record is None:
                        continue
                    # The next one first: writing this one's record takes the driver a moment.
                    if not worker.start_next(waiting, listener):
                        busy.remove(worker)
                    yield record
        finally:
            _stop(workers)


def _context(preload: Sequence[str]) -> Any:
    """Return how processes are started: forked, where there is fork, from one with no threads.

    A fork of this process would take its CUDA context and its threads' locks along.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _pickled(work: Work) -> bytes:
    try:
        return pickle.dumps(work)
    except Exception as error:  # whatever a plugin's classes raise
        raise FtbenchError(
            f"the plugins cannot be sent to worker processes ({type(error).__name__}: {error}); "
            "define their classes in a module, or sweep with --workers 0"
        ) from error


@dataclass
class _Running:
    """A run in progress."""

    run: RunSpec
    future: Future[RunRecord]
    began: float | None = None  # as far as this process knows; a new worker takes a while
    steps_told: int = 0
    is_late: bool = False


class _Worker:
    """One process, replaced where it dies, and the run that it carries out."""

    def __init__(self, place: str, context: Any, shipped: bytes) -> None:
        self._place = place
        # [process, run under way, steps taken, steps in all]; written without a lock, so that a
        # death leaves none held.
        self._told = context.RawArray(ctypes.c_longlong, 4)
        self._context, self._shipped = context, shipped
        self._pool = self._new_pool()
        self._running: _Running | None = None

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=1,
            initializer=_begin,
            initargs=(self._shipped, self._place, self._told),
            context=self._context,
        )

    @property
    def future(self) -> Future[RunRecord]:
        """What the run in progress will come to."""
        assert self._running is not None
        return self._running.future

    def start_next(self, waiting: Iterator[RunSpec], listener: Listener) -> bool:
        """Start the next run; return whether there was one."""
        run = next(waiting, None)
        if run is None:
            self._running = None
            return False
        listener.started(run)
        self._told[1:] = [0, 0, 0]
        self._running = _Running(run, self._scheduled(run))
        return True

    def _scheduled(self, run: RunSpec) -> Future[RunRecord]:
        try:
            return self._pool.schedule(_carry_out, (run,))
        except RuntimeError:  # its process died between two runs, and took the pool with it
            self.renew()
            return self._pool.schedule(_carry_out, (run,))

    def renew(self) -> None:
        """Let a new process carry out what comes next."""
        self.close()
        self._told[0] = 0
        self._pool = self._new_pool()

    def look(self, listener: Listener) -> None:
        """Note that the run is under way, and tell of steps that were taken since the last look."""
        assert self._running is not None
        _, is_under_way, step, total = self._told[:]
        if is_under_way and self._running.began is None:
            self._running.began = time.monotonic()
        if step > self._running.steps_told:
            self._running.steps_told = step
            listener.stepped(self._running.run, step, total)

    def record(self, work: Work) -> RunRecord | None:
        """Return the record of the run, None while it is in progress."""
        now = self._running
        assert now is not None
        taken = 0.0 if now.began is None else time.monotonic() - now.began
        limit = work.timeout_seconds
        if not now.future.done():
            if limit is not None and taken > limit + GRACE and not now.is_late:
                now.is_late = True
                self.kill()
            return None
        if now.is_late:
            return work.lost(now.run, self._place, "timeout", out_of_time(taken, limit))
        try:
            record = now.future.result()
        except ProcessExpired as error:
            return work.lost(now.run, self._place, "crashed", _death(error.exitcode))
        except BrokenProcessPool as error:
            return work.lost(now.run, self._place, "crashed", f"its worker process ended: {error}")
        except Exception as error:  # it could not be sent there or back
            said = f"{type(error).__name__}: {error}"
            return work.lost(now.run, self._place, "failed", said)
        if work.spoils(record):
            self.renew()
        return record

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        process = int(self._told[0])
        if process:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def close(self) -> None:
        """End the process, and whatever manages it before that can replace it."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self.kill()
        self._pool.join()


def _stop(workers: Sequence[_Worker]) -> None:
    """End all processes; what they were doing is lost, and nothing waits for it."""
    closing = [threading.Thread(target=worker.close, daemon=True) for worker in workers]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(timeout=10)


def _death(code: int | None) -> str:
    """Return what ended a process, by its exit code."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            often = ", which is how Linux ends what takes too much memory" if code == -9 else ""
            return f"its worker process was ended by {name}{often}"
    return f"its worker process ended with code {code}"


@dataclass
class _Here:
    """What a worker process is."""

    shipped: bytes
    place: str
    told: Any
    work: Work | None = None


_here: _Here | None = None


def _begin(shipped: bytes, place: str, told: Any) -> None:
    """Make this process a worker; runs in it."""
    global _here
    _die_with_the_driver()
    told[0] = os.getpid()
    _here = _Here(shipped, place, told)


def _carry_out(run: RunSpec) -> RunRecord:
    """Return the record of a run; runs in a worker."""
    assert _here is not None
    if _here.work is None:
        _here.work = pickle.loads(_here.shipped)
    told = _here.told
    told[1] = 1

    def on_step(step: int, total_steps: int) -> None:
        told[2], told[3] = step, total_steps

    return _here.work(run, on_step, _here.place)


def _die_with_the_driver() -> None:
    """End this process when the one that asked for it ends, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        # The server that forked this process ends with the driver, once no worker holds the end of
        # its pipe, and the kernel tells.
        server: Any = forkserver._forkserver
        if server._forkserver_alive_fd is not None:
            os.close(server._forkserver_alive_fd)
            server._forkserver_alive_fd = None
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
