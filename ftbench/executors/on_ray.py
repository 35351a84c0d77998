"""Runs on the nodes of a Ray cluster, each a task of Ray Core.

Ray schedules, and says which worker or node is lost; trying again is decided here, and nothing of
Ray's own retries.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ftbench.errors import FtbenchError, SpecError
from ftbench.executors.contract import GRACE, Listener, Records, Work, out_of_time
from ftbench.records import RunRecord, RunSpec

TRIES = 3
"""How often a run is started whose worker or node is lost, the first time included."""

_LOOK_EVERY = 0.5  # seconds between looks at steps and clocks, and between what a run tells
_BOARD_ANSWERS = 5.0  # seconds in which the board has to say how far runs are
_NODE_ANSWERS = 600.0  # seconds in which a node has to say whether it has data and weights
# Of this environment. Everybody who sees the cluster sees them, so no tokens.
_PASSED_ON = (
    *("FTBENCH_CACHE", "FTBENCH_CACHE_GB", "FTBENCH_ISA", "FTBENCH_OPS"),
    *("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TORCH_HOME"),
)

Check = Callable[[Work, str], str]
"""Returns why a node cannot carry out the work on a device, ``""`` where it can; runs there."""


@dataclass(frozen=True)
class Cluster:
    """Where runs go, and what each asks of a node."""

    address: str = ""  # of a running cluster, auto for this machine's; "" starts one here
    threads: int = 1  # CPUs that a run takes
    device: str = "auto"  # cpu, cuda, or auto: a GPU where any node has one
    runs_per_gpu: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)  # that a node must have


@dataclass
class _Running:
    """A run in progress: a task of Ray, started for the ``tries``-th time."""

    run: RunSpec
    tries: int = 1
    node: str = ""  # known once it is under way
    began: float | None = None  # as far as this process knows; it waits for a node first
    steps_told: int = 0
    is_late: bool = False

    @property
    def seconds(self) -> float:
        """How long it has been under way, 0 where it waits."""
        return 0.0 if self.began is None else time.monotonic() - self.began


class OnRay:
    """Carries out as many runs at a time as the nodes of a cluster have room for."""

    shares_process = False

    def __init__(self, cluster: Cluster, check: Check, *, at_most: int | None = None) -> None:
        """Connect, or start Ray on this machine; SpecError for what no node can give.

        ``check`` is what each node is asked before the first run.
        """
        self._ray = _ray()
        self._cluster, self._check = cluster, check
        self._started_here = _connect(self._ray, cluster)
        try:
            self._nodes = self._alive()
            self._gpus = self._share()
            room = self._room()
        except BaseException:
            self._leave()
            raise
        self._place = "cuda:0" if self._gpus else "cpu"
        self._names = {number: name for name, number, _ in room}
        self._asked = [(name, number) for name, number, count in room if count]
        count = sum(count for *_, count in room)
        self.at_once = count if at_most is None else min(count, at_most)
        self.shares_device = 0 < self._gpus < 1

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _share(self) -> float:
        """Return how many GPUs a run takes: a share of one where several runs share it."""
        has_some = any(node["Resources"].get("GPU", 0) for node in self._nodes)
        wanted = self._cluster.device
        takes = wanted == "cuda" or (wanted == "auto" and has_some)
        return 1 / self._cluster.runs_per_gpu if takes else 0.0

    def _room(self) -> list[tuple[str, str, int]]:
        """Return each node's name, id, and how many runs it has room for; SpecError for none."""
        wanted = self._cluster
        found = []
        for node in self._nodes:
            has, labels = node["Resources"], node.get("Labels", {})
            count = int(has.get("CPU", 0) // wanted.threads)
            if self._gpus:
                count = min(count, int(has.get("GPU", 0) / self._gpus + 1e-6))
            if any(labels.get(name) != value for name, value in wanted.labels.items()):
                count = 0
            found.append((self._name(node), node["NodeID"], count))
        if not any(count for *_, count in found):
            raise SpecError(_refusal(wanted, self._gpus, self._nodes))
        return found

    def _name(self, node: Mapping[str, Any]) -> str:
        """Return a node's host, with its number where one host has several nodes."""
        host = str(node["NodeManagerHostname"])
        several = sum(other["NodeManagerHostname"] == host for other in self._nodes) > 1
        return f"{host} ({node['NodeID'][:8]})" if several else host

    def map(self, runs: Iterable[RunSpec], work: Work, listener: Listener) -> Records:
        """Yield each run's record as it ends; a run starts when a node should be free for it."""
        ray, waiting = self._ray, iter(runs)
        busy: dict[Any, _Running] = {}
        try:
            self._check_nodes(work)
            tell = ray.remote(num_cpus=0, max_restarts=0)(_Board).remote()
            task = self._task(_carry_out)
            shipped = ray.put(work)

            def start(now: _Running) -> None:
                busy[task.remote(shipped, now.run, now.tries, self._place, tell)] = now

            def start_next() -> None:
                run = next(waiting, None)
                if run is not None:
                    listener.started(run)
                    start(_Running(run))

            for _ in range(self.at_once):
                start_next()
            while busy:
                ended, _ = ray.wait(list(busy), timeout=_LOOK_EVERY)
                self._look(tell, busy, listener)
                self._end_late(busy, work.timeout_seconds)
                if not ended:
                    self._nodes = self._alive()
                    self._room()  # raises where all nodes are lost that could go on
                for task_of in ended:
                    now = busy.pop(task_of)
                    tell.forget.remote(now.run.key, now.tries)
                    record = self._record(task_of, now, work)
                    if record is None:
                        start(_Running(now.run, now.tries + 1))
                        continue
                    # The next one first: writing this one's record takes the driver a moment.
                    start_next()
                    yield record
        finally:
            for task_of in busy:
                with contextlib.suppress(Exception):
                    ray.cancel(task_of, force=True)
            self._leave()

    def _task(self, function: Callable[..., Any]) -> Any:
        """Return a task of what a run asks for; of a GPU, each in a process of its own.

        A process that has used a GPU keeps memory there.
        """
        wanted, options = self._cluster, dict[str, Any]()
        if self._gpus:
            options["max_calls"] = 1
        if wanted.labels:
            options["label_selector"] = dict(wanted.labels)
        return self._ray.remote(
            num_cpus=wanted.threads, num_gpus=self._gpus, max_retries=0, **options
        )(function)

    def _check_nodes(self, work: Work) -> None:
        """Raise FtbenchError naming the nodes that lack what the work needs."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray, asked = self._ray, {}
        for name, number in self._asked:
            there = NodeAffinitySchedulingStrategy(number, soft=False)
            # Without a CPU: others' runs may hold all of the node's.
            task = self._task(_ask).options(scheduling_strategy=there, num_cpus=0)
            asked[task.remote(self._check, work, self._place)] = name
        problems = []
        for answer, name in asked.items():
            try:
                problem = cast(str, ray.get(answer, timeout=_NODE_ANSWERS))
            except Exception as error:
                problem = _cause(error)
            if problem:
                problems.append(f"node {name}: {problem}")
        if problems:
            raise FtbenchError("; ".join(problems))

    def _look(self, tell: Any, busy: Mapping[Any, _Running], listener: Listener) -> None:
        """Hear where runs are under way and which steps they took since the last look."""
        try:
            told = self._ray.get(tell.read.remote(), timeout=_BOARD_ANSWERS)
        except Exception:  # whoever was told may be lost with its node: runs go on without
            return
        for now in busy.values():
            node, step, total = told.get((now.run.key, now.tries), ("", 0, 0))
            if node and now.began is None:
                now.node, now.began = self._names.get(node, node[:8]), time.monotonic()
            if step > now.steps_told:
                now.steps_told = step
                listener.stepped(now.run, step, total)

    def _end_late(self, busy: Mapping[Any, _Running], limit: float | None) -> None:
        for task_of, now in busy.items():
            if limit is not None and not now.is_late and now.seconds > limit + GRACE:
                now.is_late = True
                self._ray.cancel(task_of, force=True)

    def _record(self, task_of: Any, now: _Running, work: Work) -> RunRecord | None:
        """Return the record of a run that is over; None where it is to be tried again."""
        errors = self._ray.exceptions
        where = f" on {now.node}" if now.node else ""
        try:
            return cast(RunRecord, self._ray.get(task_of))
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.LocalRayletDiedError,
            errors.ObjectLostError,
            errors.TaskCancelledError,
        ) as error:
            if now.is_late:
                said = out_of_time(now.seconds, work.timeout_seconds)
                return work.lost(now.run, self._place, "timeout", said)
            if now.tries < TRIES:
                return None
            said = f"lost {TRIES} times, the last{where}: {_cause(error)}"
            return work.lost(now.run, self._place, "crashed", said)
        except Exception as error:  # it could not be sent there or back
            return work.lost(now.run, self._place, "failed", f"{_cause(error)}{where}")

    def _leave(self) -> None:
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False


def _ray() -> Any:
    # Its own reports about use go nowhere from here, and its notes are not this program's.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise SpecError(
            "--executor ray needs Ray, which is not installed: pip install 'ftbench[ray]'"
        ) from error
    return ray


def _connect(ray: Any, cluster: Cluster) -> bool:
    """Connect this process to a cluster; return whether that was done here and is to be undone."""
    if ray.is_initialized():
        return False
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    handled = signal.getsignal(signal.SIGTERM)
    try:
        with _unwarned():
            _keep_off_stdout()
            ray.init(
                address=cluster.address or "local",
                runtime_env={"env_vars": environment},
                **({} if cluster.address else {"include_dashboard": False}),
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where = f"at {cluster.address}" if cluster.address else "on this machine"
        raise SpecError(f"--address: no Ray cluster {where}: {_cause(error)}") from error
    finally:
        # Ray takes this signal for itself.
        if threading.current_thread() is threading.main_thread() and handled is not None:
            signal.signal(signal.SIGTERM, handled)
    return True


def _keep_off_stdout() -> None:
    """Let Ray print no word of workers and nodes it lost, into the table: records say that."""
    with contextlib.suppress(ImportError):
        from ray._private import worker

        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = lambda *args, **options: None


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refusal(wanted: Cluster, gpus: float, nodes: list[dict[str, Any]]) -> str:
    """Return what no node can give, beside what each has."""
    asked = [f"{wanted.threads} CPU"]
    asked += [f"{gpus:g} GPU"] if gpus else []
    asked += [f"label {name}={value}" for name, value in wanted.labels.items()]
    has = [
        f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} CPU, "
        f"{node['Resources'].get('GPU', 0):g} GPU"
        + "".join(
            f", {name}={value}"
            for name, value in node.get("Labels", {}).items()
            if not name.startswith("ray.io/node-id")
        )
        for node in nodes
    ]
    return (
        f"no node of the Ray cluster has what a run asks for ({', '.join(asked)}); "
        f"it has {'; '.join(has) or 'none that is alive'}"
    )


def _cause(error: BaseException) -> str:
    """Return the first line of what an error says."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause) else ''}"


class _Board:
    """Where runs write how far they are; an actor of Ray."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], tuple[str, int, int]] = {}

    def write(self, key: str, tries: int, node: str, step: int, total: int) -> None:
        """Hear of a run's step."""
        self._told[key, tries] = node, step, total

    def forget(self, key: str, tries: int) -> None:
        """Hear that a run is over."""
        self._told.pop((key, tries), None)

    def read(self) -> dict[tuple[str, int], tuple[str, int, int]]:
        """Return how far each run is, by its key and which try it is."""
        return dict(self._told)


def _carry_out(work: Work, run: RunSpec, tries: int, place: str, tell: Any) -> RunRecord:
    """Return the record of a run; runs on a node."""
    import ray

    node, told = ray.get_runtime_context().get_node_id(), 0.0
    tell.write.remote(run.key, tries, node, 0, 0)

    def on_step(step: int, total_steps: int) -> None:
        nonlocal told
        if time.monotonic() - told > _LOOK_EVERY or step == total_steps:
            told = time.monotonic()
            tell.write.remote(run.key, tries, node, step, total_steps)

    return work(run, on_step, place)


def _ask(check: Check, work: Work, place: str) -> str:
    """Return what a node lacks; runs there."""
    pickle.dumps(work)  # what cannot be sent on is said here, not run by run
    return check(work, place)
