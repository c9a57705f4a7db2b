"""One thread that computes, and the bounded queue before it: every request is a job on the home of its tenant.

Answers change no home: those that wait are written together with the one whose turn it is. Whatever else a tenant asked
for stays before and behind its answers as it came, but for what is read: between two windows, and behind the last, the
answers that wait are written, by the weights as they are there. So an answer waits for one window at most, and for
other answers; and as at least one window is read between two batches of answers, reading ends as well.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Literal

from driftlm.core.errors import DriftError
from driftlm.homes.completing import Asked, Completion
from driftlm.homes.decoding import write
from driftlm.homes.home import Home
from driftlm.homes.tenants import Tenants
from driftlm.serving.metrics import Metrics

FIRST_GUESS = 1.0  # seconds of a job, before there was one
SHARE = 0.2  # of the latest job in their running mean
BATCH = 16  # answers that are written together at most
Kind = Literal["asks", "reads", "other"]
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
        kind: `asks` where the work gives an `Asked`, to be written together with others, and the result is a
            `Completion`; `reads` where it reads, and gives way by `Engine.between_windows`.
        waited: seconds before it began.
    """

    def __init__(self, tenant: str, work: Callable[[Home], Any], gone: threading.Event, kind: Kind) -> None:
        self.tenant, self.work, self.gone, self.kind = tenant, work, gone, kind
        self.result: Future[Any] = Future()
        self.came, self.waited = time.perf_counter(), 0.0

    def begin(self) -> bool:
        """Begin, where somebody waits for it still."""
        self.waited = time.perf_counter() - self.came
        return self.result.set_running_or_notify_cancel()

    def leave(self) -> None:
        """Leave a job that nobody waits for: it does not begin; where it has begun, what only speaks may stop."""
        self.gone.set()
        self.result.cancel()


class Engine:
    """Runs jobs in a thread of its own, in the order they came, but for answers, which may join one that begins, and
    to which reading gives way.

    Args:
        tenants: whose homes are worked on; closed when the engine stops.
        queue: jobs that may wait at most.
        batch: answers that are written together at most; of no more tenants than have homes in memory, besides the
            one that reads.

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
        self.homes: dict[str, Home] = {}  # that are worked on now
        self.window_began = 0.0
        self.thread = threading.Thread(target=self.run, name="engine")

    def submit(
        self, tenant: str, work: Callable[[Home], Any], gone: threading.Event | None = None, kind: Kind = "other"
    ) -> Job:
        """Put work at the end of the queue; `gone` is to be set when nobody waits for it any more.

        Raises:
            Busy: when it is full.
            Stopping: when nothing is begun any more.
        """
        job = Job(tenant, work, gone or threading.Event(), kind)
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
                self.take_up(jobs)
                if jobs[0].kind == "reads":
                    self.give_way()
        finally:
            try:
                self.tenants.close()
            except BaseException as error:
                self.failure = error

    def next(self) -> list[Job]:
        """Take the job that waits longest, or wait for one; none when the engine stops. Answers go together."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.stopping)
            if not self.jobs or self.jobs[0].kind != "asks":
                return [self.jobs.popleft()] if self.jobs else []
            return self.together(passing=False)

    def together(self, passing: bool) -> list[Job]:
        """Take answers that can be written together; unless they are `passing`, none that another job of its tenant is
        before.
        """
        jobs, left, behind = list[Job](), deque[Job](), set[str]()
        for job in self.jobs:
            tenants = {job.tenant, *(one.tenant for one in jobs)}
            joins = job.kind == "asks" and len(jobs) < self.batch and job.tenant not in behind
            if joins and (not jobs or len(tenants) <= self.tenants.most_in_memory):
                jobs.append(job)
            else:
                left.append(job)
                if not passing:
                    behind.add(job.tenant)
        self.jobs = left
        return jobs

    def give_way(self) -> None:
        """Write the answers that wait, whatever came before them."""
        with self.changed:
            jobs = self.together(passing=True)
        self.take_up(jobs)
        self.window_began = time.perf_counter()

    def between_windows(self) -> None:
        """Give way in the middle of a document; the seconds of the window before are measured."""
        self.metrics.observe("driftlm_window_seconds", time.perf_counter() - self.window_began)
        self.give_way()

    def take_up(self, jobs: list[Job]) -> None:
        """Begin jobs that were taken, those that somebody waits for still."""
        jobs = [job for job in jobs if job.begin()]
        began = time.perf_counter()
        if jobs and jobs[0].kind == "asks":
            self.answer(jobs)
        elif jobs:
            self.do(jobs[0])
        if jobs:
            self.mean += SHARE * ((time.perf_counter() - began) / len(jobs) - self.mean)

    def do(self, job: Job) -> None:
        """Run a job, and say what became of it."""
        try:
            with ExitStack() as stack:
                home = self.home(job.tenant, stack)
                self.window_began = time.perf_counter()
                result = job.work(home)
        except BaseException as error:
            job.result.set_exception(error)
        else:
            job.result.set_result(result)

    def answer(self, jobs: list[Job]) -> None:
        """Write answers together, and say of each what became of it as soon as it ends."""
        asked = list[tuple[Job, Asked]]()

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
                    self.metrics.observe("driftlm_wait_seconds", job.waited)
                    try:
                        asked.append((job, job.work(self.home(job.tenant, stack))))
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
        """Return a tenant's home, until the stack ends; one that is worked on already stays as long as that takes."""
        if tenant not in self.homes:
            try:
                self.homes[tenant] = stack.enter_context(self.tenants.using(tenant))
            except DriftError as error:
                raise Unusable(str(error)) from error
            stack.callback(self.homes.pop, tenant)
        return self.homes[tenant]

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
