"""One thread that computes, and the bounded queue before it: every request is a job on the home of its tenant.

Answers change no home: those that wait are written together with the one whose turn it is. Whatever else a tenant asked
for stays before and behind its answers as it came.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.completing import Asked, Completion
from driftlm.homes.decoding import write
from driftlm.homes.home import Home
from driftlm.homes.tenants import Tenants
from driftlm.serving.metrics import Metrics

FIRST_GUESS = 1.0  # seconds of a job, before there was one
SHARE = 0.2  # of the latest job in their running mean
BATCH = 16  # answers that are written together at most
LOG = logging.getLogger("driftlm.serving")


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
        asks: whether the work gives an `Asked`, to be written together with others, and the result is a `Completion`.
    """

    def __init__(self, tenant: str, work: Callable[[Home], Any], gone: threading.Event, asks: bool) -> None:
        self.tenant, self.work, self.gone, self.asks = tenant, work, gone, asks
        self.result: Future[Any] = Future()

    def leave(self) -> None:
        """Leave a job that nobody waits for: it does not begin; where it has begun, what only speaks may stop."""
        self.gone.set()
        self.result.cancel()


class Engine:
    """Runs jobs in a thread of its own, in the order they came, but for answers, which may join one that begins.

    Args:
        tenants: whose homes are worked on; closed when the engine stops.
        queue: jobs that may wait at most.
        batch: answers that are written together at most; of no more tenants than have homes in memory.

    Attributes:
        metrics: that are counted, here and by the routes.

    Example (needs nothing but the installed package):
        >>> from tempfile import TemporaryDirectory
        >>> from driftlm import Learning, load
        >>> from driftlm.memories.settings import MemorySettings
        >>> settings = MemorySettings(learning=Learning("none"))
        >>> with TemporaryDirectory() as folder, Engine(Tenants(folder, load(), settings), 4) as engine:
        ...     engine.submit("ada", lambda home: len(home.history)).result.result()
        0
    """

    def __init__(self, tenants: Tenants, queue: int = 64, batch: int = BATCH) -> None:
        if queue < 1:
            raise DriftError(f"`Engine.queue` was {queue}; give the number of requests that may wait, at least 1.")
        if batch < 1:
            raise DriftError(f"`Engine.batch` was {batch}; give the number of answers to write together, at least 1.")
        self.tenants, self.queue, self.batch = tenants, queue, batch
        self.metrics = Metrics()
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.stopping = False
        self.mean = FIRST_GUESS
        self.failure: BaseException | None = None  # of closing the homes
        self.thread = threading.Thread(target=self.run, name="engine")

    def submit(
        self, tenant: str, work: Callable[[Home], Any], gone: threading.Event | None = None, asks: bool = False
    ) -> Job:
        """Put work at the end of the queue; `gone` is to be set when nobody waits for it any more.

        Raises:
            Busy: when it is full.
            Stopping: when nothing is begun any more.
        """
        job = Job(tenant, work, gone or threading.Event(), asks)
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
        """Return the jobs that have not begun and that somebody waits for."""
        with self.changed:
            if any(job.result.cancelled() for job in self.jobs):
                self.jobs = deque(job for job in self.jobs if not job.result.cancelled())
            return len(self.jobs)

    def run(self) -> None:
        """Run what the thread does until the engine stops."""
        try:
            while jobs := self.next():
                jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
                began = time.perf_counter()
                if jobs and jobs[0].asks:
                    self.answer(jobs)
                elif jobs:
                    self.do(jobs[0])
                if jobs:
                    self.mean += SHARE * ((time.perf_counter() - began) / len(jobs) - self.mean)
        finally:
            try:
                self.tenants.close()
            except BaseException as error:
                self.failure = error

    def next(self) -> list[Job]:
        """Take the job that waits longest, or wait for one; none when the engine stops. Answers go together."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.stopping)
            jobs, left, behind = list[Job](), deque[Job](), set[str]()
            for job in self.jobs:
                tenants = {job.tenant, *(one.tenant for one in jobs)}
                joins = job.asks and jobs and jobs[0].asks and len(jobs) < self.batch and job.tenant not in behind
                if not jobs or (joins and len(tenants) <= self.tenants.most_in_memory):
                    jobs.append(job)
                else:
                    left.append(job)
                    behind.add(job.tenant)
            self.jobs = left
            return jobs

    def do(self, job: Job) -> None:
        """Run a job, and say what became of it."""
        try:
            with ExitStack() as stack:
                result = job.work(self.home(job.tenant, stack))
        except BaseException as error:
            job.result.set_exception(error)
        else:
            job.result.set_result(result)

    def answer(self, jobs: list[Job]) -> None:
        """Write answers together, and say of each what became of it as soon as it ends."""
        homes, asked = dict[str, Home](), list[tuple[Job, Asked]]()

        def ended(place: int, made: Completion | Exception) -> None:
            result = asked[place][0].result
            if isinstance(made, Exception):
                result.set_exception(made)
            else:
                result.set_result(made)

        def began(rows: int) -> None:
            self.metrics.add("driftlm_answers_begun_total", rows)
            self.metrics.add("driftlm_answer_batches_total")

        try:
            with ExitStack() as stack:
                for job in jobs:
                    try:
                        if job.tenant not in homes:
                            homes[job.tenant] = self.home(job.tenant, stack)
                        asked.append((job, job.work(homes[job.tenant])))
                    except Exception as error:
                        job.result.set_exception(error)
                write([one for _, one in asked], ended, began)
        except BaseException as error:
            left = [job for job in jobs if not job.result.done()]
            for job in left:
                job.result.set_exception(error)
            if not left:
                LOG.error("behind answers that were given: %s", error)

    def home(self, tenant: str, stack: ExitStack) -> Home:
        """Return a tenant's home, until the stack ends."""
        try:
            return stack.enter_context(self.tenants.using(tenant))
        except DriftError as error:
            raise Unusable(str(error)) from error

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
