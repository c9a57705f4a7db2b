"""One thread that computes, and the bounded queue before it: every request is a job on the home of its tenant."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from driftlm.errors import DriftError
from driftlm.live.home import Home
from driftlm.live.tenants import Tenants

FIRST_GUESS = 1.0  # seconds of a job, before there was one
SHARE = 0.2  # of the latest job in their running mean


class Busy(DriftError):
    """The queue is full; it should have room after so many seconds."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} requests are waiting already; send this one again in {seconds} s.")
        self.seconds = seconds


class Stopping(DriftError):
    """The server stops, and this has not begun."""


class Unusable(DriftError):
    """The home of a tenant cannot be opened."""


class Job:
    """Work on a tenant's home that waits, runs or is done.

    Attributes:
        result: its future; cancelled where the job was left before it began.
        gone: set when nobody waits for the result any more.
    """

    def __init__(self, tenant: str, work: Callable[[Home], Any], gone: threading.Event) -> None:
        self.tenant, self.work, self.gone = tenant, work, gone
        self.result: Future[Any] = Future()

    def leave(self) -> None:
        """Nobody waits any more: it does not begin; where it has begun, what only speaks may stop."""
        self.gone.set()
        self.result.cancel()


class Engine:
    """Runs jobs one after the other, in the order they came, in a thread of its own.

    Args:
        tenants: whose homes are worked on; closed when the engine stops.
        queue: jobs that may wait at most.

    Example (needs nothing but the installed package):
        >>> from tempfile import TemporaryDirectory
        >>> from driftlm import Learning, load
        >>> from driftlm.live.settings import HomeSettings
        >>> settings = HomeSettings(learning=Learning("none"))
        >>> with TemporaryDirectory() as folder, Engine(Tenants(folder, load(), settings), 4) as engine:
        ...     engine.submit("ada", lambda home: len(home.history)).result.result()
        0
    """

    def __init__(self, tenants: Tenants, queue: int = 64) -> None:
        if queue < 1:
            raise DriftError(f"--queue was {queue}; give the number of requests that may wait, at least 1.")
        self.tenants, self.queue = tenants, queue
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.stopping = False
        self.mean = FIRST_GUESS
        self.failure: BaseException | None = None  # of closing the homes
        self.thread = threading.Thread(target=self.run, name="engine")

    def submit(self, tenant: str, work: Callable[[Home], Any], gone: threading.Event | None = None) -> Job:
        """Put work at the end of the queue; `gone` is to be set when nobody waits for it any more.

        Raises:
            Busy: when it is full.
            Stopping: when nothing is begun any more.
        """
        job = Job(tenant, work, gone or threading.Event())
        with self.changed:
            if self.stopping:
                raise Stopping("the server is stopping; send the request to another, or later.")
            waiting = self.waiting()
            if waiting >= self.queue:
                raise Busy(waiting, max(1, math.ceil(self.mean * waiting)))
            self.jobs.append(job)
            self.changed.notify()
        return job

    def waiting(self) -> int:
        """Jobs that have not begun and that somebody waits for."""
        with self.changed:
            if any(job.result.cancelled() for job in self.jobs):
                self.jobs = deque(job for job in self.jobs if not job.result.cancelled())
            return len(self.jobs)

    def run(self) -> None:
        """What the thread does until the engine stops."""
        try:
            while (job := self.next()) is not None:
                if job.result.set_running_or_notify_cancel():
                    self.do(job)
        finally:
            try:
                self.tenants.close()
            except BaseException as error:
                self.failure = error

    def next(self) -> Job | None:
        """The job that waits longest; waits for one; None when the engine stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.stopping)
            return self.jobs.popleft() if self.jobs else None

    def do(self, job: Job) -> None:
        """Run a job, and say what became of it."""
        began = time.perf_counter()
        try:
            with ExitStack() as stack:
                try:
                    home = stack.enter_context(self.tenants.using(job.tenant))
                except DriftError as error:
                    raise Unusable(str(error)) from error
                result = job.work(home)
        except BaseException as error:
            job.result.set_exception(error)
        else:
            job.result.set_result(result)
        self.mean += SHARE * (time.perf_counter() - began - self.mean)

    def drain(self) -> None:
        """Begin nothing any more: what waits is refused, what runs goes on."""
        with self.changed:
            self.stopping = True
            left, self.jobs = self.jobs, deque()
            self.changed.notify_all()
        for job in left:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(Stopping("the server is stopping; send the request to another, or later."))

    def __enter__(self) -> "Engine":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        self.thread.join()
        if self.failure is not None:
            raise self.failure
