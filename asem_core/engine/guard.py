"""A process beside a run, which has workers started on a cluster and sees to it that none outlives the run.

It reads lines of JSON from the run: first the cluster and the worker's command, then `{"start": INDEX}`. It writes what came of
them: `{"ended": INDEX, "ran_s": ..., "said": ...}`, `{"waiting": ..., "running": ...}`, `{"refused": ...}`. After
`{"finish": SECONDS}` workers have so long to end by themselves. When its input ends - because the run is over, or was killed in
whatever way - it cancels what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.engine.clusters import Cluster, Queue

FIRST_POLLS, FIRST_POLL_S, POLL_S = 30, 1.0, 10.0
"""How often a queue is asked for all jobs at once: at first every second, then less often."""
LAST_WORDS = 4000  # characters of a log
RETRIED_S = 300.0
"""For how long a queue that took workers before, and refuses one now, is asked again: a controller may be away for a while."""


@attrs.define
class Started:
    """A worker that is on its way or runs: a job of a queue, or a process here that started it elsewhere."""

    index: int
    log: Path
    began_s: float
    job: str = ""
    process: subprocess.Popen[bytes] | None = None
    waits: bool = True


class Guard:
    """The workers of one run."""

    def __init__(self, cluster: Cluster, command: Sequence[str], name: str, logs: Path) -> None:
        self.cluster, self.command, self.name, self.logs = cluster, command, name, logs
        self.started: dict[int, Started] = {}
        self.refused_since: dict[int, float] = {}
        self.was_accepted = False
        # Inside of an allocation, its variables would change what is asked for.
        keep = ("SLURM_CONF",)
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_")) or k in keep}

    def start(self, index: int) -> None:
        """Submit or start a worker; say so where that is refused."""
        log = self.logs / f"{index}.log"
        log.touch(mode=0o600)
        command = self.cluster.command([*self.command, str(index)], index, self.name, log)
        worker = Started(index, log, time.monotonic())
        queue_of_jobs = self.cluster.queue
        try:
            if queue_of_jobs is None:
                with log.open("ab") as said:
                    worker.process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                    )
                worker.waits = False
            else:
                worker.job = self._submit(command)
        except (OSError, ValueError) as error:
            since = self.refused_since.setdefault(index, time.monotonic())
            if not self.was_accepted or time.monotonic() - since > RETRIED_S:
                tell(refused=f"{command[0]}: {error}")
            return
        self.was_accepted = True
        self.refused_since.pop(index, None)
        self.started[index] = worker

    def _submit(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self.environ, stdin=subprocess.DEVNULL)
        number = re.search(r"\d+", done.stdout)
        if done.returncode or number is None:
            raise ValueError(" ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}")
        return number[0]

    def look(self) -> None:
        """Find out which workers have ended, and tell of each; ask again for those that were refused."""
        for index in list(self.refused_since):
            self.start(index)
        jobs = self.cluster.queue
        states = self._states(jobs) if jobs is not None and self.started else None
        for worker in list(self.started.values()):
            if worker.process is not None:
                over = worker.process.poll() is not None
            else:
                if states is None or jobs is None:
                    continue
                state = states.get(worker.job, "")
                over = not state or state in jobs.over
                if worker.waits and state not in jobs.waiting:
                    worker.waits, worker.began_s = False, time.monotonic()
            if over:
                del self.started[worker.index]
                code = worker.process.returncode if worker.process is not None else None
                said = worker.log.read_bytes().decode(errors="replace")[-LAST_WORDS:]
                tell(ended=worker.index, ran_s=time.monotonic() - worker.began_s, said=said, code=code)
        waiting = [w.job for w in self.started.values() if w.waits]
        tell(waiting=len(waiting), running=len(self.started) - len(waiting), jobs=waiting[:3])

    def _states(self, jobs: Queue) -> dict[str, str] | None:
        """Ask for all jobs at once; None where the queue does not answer, as it does for a while now and then."""
        try:
            done = subprocess.run(
                jobs.states([w.job for w in self.started.values()]),
                capture_output=True, text=True, env=self.environ, stdin=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        unknown = "invalid job id" in done.stderr.lower() or "is not found" in done.stderr.lower()
        if done.returncode and not unknown:
            return None
        return {words[0]: words[1] for line in done.stdout.splitlines() if len(words := line.split()) >= 2}

    def cancel(self) -> None:
        """End all that is left."""
        left = list(self.started.values())
        for worker in left:
            if worker.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    if hasattr(os, "killpg"):
                        os.killpg(worker.process.pid, signal.SIGTERM)
                    else:
                        worker.process.terminate()
        jobs = [worker.job for worker in left if worker.job]
        if jobs and self.cluster.queue is not None:
            with contextlib.suppress(OSError):
                subprocess.run(self.cluster.queue.cancel(jobs), capture_output=True, env=self.environ)


def tell(**what: Any) -> None:
    """Say something to the run; where it is gone, the end of the input comes next."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(what), flush=True)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: lines.put(""))
    about = json.loads(lines.get() or "null")
    if about is None:
        return
    cluster = Cluster(**{**about["cluster"], "hosts": tuple(about["cluster"]["hosts"])})
    guard = Guard(cluster, about["command"], about["name"], Path(about["logs"]))
    polls, next_look, last = 0, time.monotonic() + FIRST_POLL_S, float("inf")
    try:
        while (last == float("inf") or guard.started) and time.monotonic() < last:
            try:
                line = lines.get(timeout=max(0.0, next_look - time.monotonic()))
            except queue.Empty:
                guard.look()
                polls += 1
                often = polls < FIRST_POLLS or last < float("inf")
                next_look = time.monotonic() + (FIRST_POLL_S if often else POLL_S)
                continue
            if not line:
                return
            order = json.loads(line)
            if "finish" in order:
                last, next_look = time.monotonic() + order["finish"], time.monotonic()
            else:
                guard.start(order["start"])
    finally:
        guard.cancel()


if __name__ == "__main__":
    _main()
