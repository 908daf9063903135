"""The thread that owns a decoder: a mailbox in, calls of each sequence's `Output` out.

Anybody may call `submit` and `cancel` from any thread at any time; they take effect before the next step. All
the rest happens on the loop's own thread, so neither the scheduler nor the decoder needs a lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from infs.batching.base import CacheOp, Decoder, Save
from infs.batching.memory import ColdMemory
from infs.batching.pacing import Pacing
from infs.batching.plan import Counters, Plan
from infs.batching.scheduler import Scheduler
from infs.batching.sequence import Sequence
from infs.batching.speculation import Speculator, Wanted
from infs.errors import GenerationFailed, InfsError, RequestCancelled, ServerClosed
from infs.types import FinishReason

IDLE = 0.2  # seconds without work after which cells are written down
SAVE_AT_ONCE = 512  # tokens that are written down between two looks into the mailbox

T = TypeVar("T")


class Loop:
    """Runs a scheduler's plans on a decoder until it is closed.

    Args:
        memory: where cells are written down that are given up; the same that the scheduler asks.
        guesser: guesses tokens, to be checked several at once.
        pacing: chooses the size of steps.
        before_step: called on the loop's thread before each batch is computed: the place to start what can go on
            beside it.
        after_step: called on the loop's thread after outputs were called, once for each step: the place to wake
            whoever reads what the outputs collected.
        clock: seconds.
    """

    def __init__(
        self,
        decoder: Decoder,
        scheduler: Scheduler,
        *,
        memory: ColdMemory | None = None,
        guesser: Speculator | None = None,
        pacing: Pacing | None = None,
        before_step: Callable[[], None] = lambda: None,
        after_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        log: logging.Logger | None = None,
    ) -> None:
        self.decoder = decoder
        self.scheduler = scheduler
        self._memory = memory
        self._guesser = guesser
        self._pacing = pacing
        self._before_step = before_step
        self._after_step = after_step
        self._clock = clock
        self._log = log or logging.getLogger(__name__)
        self._group: object = None
        self._guessed: set[Sequence] = set()
        self._held = False
        self._mail: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._gone = False
        self._driving = threading.Lock()
        self._driver: int | None = None
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="infs-loop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue `sequence`; its output hears the end of it in any case, also of a loop that is closed."""
        self._post(lambda: self._submit(sequence))

    def cancel(self, sequence: Sequence) -> None:
        """End `sequence` before the next step, if it has not ended yet."""
        self._post(lambda: self._end(sequence, RequestCancelled("The request was cancelled.")))

    def stop(self, sequence: Sequence) -> None:
        """Finish `sequence` before the next step, if it has not ended yet: it has said enough."""
        self._post(lambda: self._stop(sequence))

    def ask(self, question: Callable[[], T], timeout: float | None = None) -> T | None:
        """What `question` returns on the loop's thread, between two steps; ``None`` if that takes too long.

        What it raises is raised here.
        """
        if self._thread.ident is None and self._driving.acquire(blocking=False):  # nobody runs the loop just now
            try:
                return question()
            finally:
                self._driving.release()
        answer: Future[T] = Future()

        def letter() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._post(letter)
        with suppress(TimeoutError):
            return answer.result(timeout)
        return None

    def close(self) -> None:
        """End all sequences in a failure and the thread with them; returns when it is gone."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.ident is None:
            with self._driving:
                if not self._gone:
                    self._leave()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def turn(self, *, wait: bool = False) -> bool:
        """One turn of a loop whose thread was not started: what has come, a step, and its news. Not for two threads
        at once: the second one waits.

        Args:
            wait: wait until there is something to do.

        Returns:
            Whether there is more to do; never for a closed loop.
        """
        with self._driving:
            if self._closed or (wait and not self._read_mail()):
                return False
            self._driver = threading.get_ident()
            try:
                self.read()
                if self.scheduler.busy:
                    self.safe_step()
                self._after_step()
            finally:
                self._driver = None
            return bool(self._mail) or self.scheduler.busy

    @property
    def mine(self) -> bool:
        """Whether the thread that asks is the one that runs the loop: it must not wait for what the loop will do."""
        return threading.current_thread() is self._thread or self._driver == threading.get_ident()

    @property
    def stepping(self) -> float:
        """Seconds that the step which is being computed has taken so far; 0 between steps. For any thread."""
        since = self._since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return self.scheduler.counters

    # --- on the loop's thread

    def _post(self, letter: Callable[[], None]) -> None:
        with self._wake:
            if not self._gone:
                self._mail.append(letter)
                self._wake.notify()
                return
        letter()  # the thread has ended: the letter finds everything closed
        self._after_step()

    def _run(self) -> None:
        while self._read_mail():
            if self.scheduler.busy:
                self._hold(True)  # disks are for when nothing is computed: writing takes a core
                self.safe_step()
            self._after_step()
        self._leave()

    def safe_step(self) -> None:
        """One step; whatever goes wrong ends in failures of those who were there, not in an exception."""
        try:
            self.step()
        except Exception as error:  # nothing may end this thread while somebody waits for it
            self._lose_all(error)

    def _leave(self) -> None:
        with self._wake:
            self._gone = True
            letters, self._mail = self._mail, deque()
        for letter in letters:
            letter()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            self._end(sequence, ServerClosed("The model was unloaded while the request was running."))
        try:
            while self.scheduler.cache.unsaved():
                self._write_down()
        except Exception:  # the cache is a convenience; what matters is that everybody was told
            self._log.exception("The context cache could not be written down")
        self._after_step()

    def _read_mail(self) -> bool:
        """Do what the letters say; wait for one if there is nothing else to do. False when closed."""
        with self._wake:
            while not (self._mail or self._closed or self.scheduler.busy):
                self._hold(False)
                saves = self._memory is not None and self.scheduler.cache.unsaved()
                if not self._wake.wait(IDLE if saves else None):
                    break
            letters, self._mail = self._mail, deque()
        if not (letters or self._closed or self.scheduler.busy):
            self._write_down()
        self.read(letters)
        return not self._closed

    def read(self, letters: deque[Callable[[], None]] | None = None) -> None:
        """Do what `letters` say, by default all that have come. (For those who drive the loop themselves.)"""
        if letters is None:
            with self._wake:
                letters, self._mail = self._mail, deque()
        for letter in letters:
            letter()

    def _hold(self, held: bool) -> None:
        if self._memory is not None and held != self._held:
            self._held = held
            self._memory.hold(held)

    def _write_down(self) -> None:
        """Write down some of what is not yet."""
        self.scheduler.cache.save(SAVE_AT_ONCE)
        ops, self.scheduler.cache.ops = self.scheduler.cache.ops, []
        self._apply(ops)

    def step(self) -> None:
        """Schedule, compute, sample, publish."""
        self._since = self._clock()
        try:
            self._step()
        finally:
            self._since = None

    def _step(self) -> None:
        if self._guesser is not None:
            self._guess(self._guesser)
        plan = self.scheduler.plan()
        self._apply(plan.ops)
        for sequence in plan.restores:
            self._restore(sequence)
        if not plan.chunks:
            return
        self._before_step()
        begin = self._clock()
        rows = self._compute(plan)
        self.scheduler.computed(plan)
        for index, row in enumerate(rows):
            self._advance(plan, index, row)
        self._measure(plan, self._clock() - begin)

    # --- cells

    def _apply(self, ops: list[CacheOp | Save]) -> None:
        if self._memory is None or not any(isinstance(op, Save) for op in ops):
            if ops:
                self.decoder.apply([op for op in ops if not isinstance(op, Save)])
            return
        waiting: list[CacheOp] = []
        for op in ops:
            if isinstance(op, Save):
                self.decoder.apply(waiting)
                waiting = []
                self._memory.put(op, self.decoder.save(op.seq, op.start, op.end))
            else:
                waiting.append(op)
        self.decoder.apply(waiting)

    def _restore(self, sequence: Sequence) -> None:
        """Bring back what was written down of `sequence`, as far as it is still there."""
        upto = sequence.computed
        seq = sequence.seq
        assert self._memory is not None
        assert seq is not None
        for piece in sequence.restoring:
            start, end = (0 if piece.whole else upto), piece.end

            def into(data: bytes | bytearray, start: int = start, end: int = end) -> bool:
                return self.decoder.restore(seq, data, start, end)

            if piece.start != upto or not self._memory.restore(piece, into):
                break
            upto = end
        self.scheduler.restored(sequence, upto)

    # --- computing

    def _compute(self, plan: Plan) -> list[int]:
        if plan.group != self._group:
            self.decoder.select(plan.group)
            self._group = plan.group
        return self.decoder.decode(plan.chunks)

    def _measure(self, plan: Plan, seconds: float) -> None:
        tokens = sum([len(chunk.tokens) for chunk in plan.chunks])
        if plan.streams == len(plan.chunks):
            if self._guesser is not None:
                self._guesser.step_took(tokens, seconds)
            return
        prompts = tokens - plan.streams
        if self._memory is not None:
            self._memory.costs.computed(prompts, seconds * prompts / tokens)
        if self._pacing is not None:
            self._pacing.took(tokens, seconds)
            self._pacing.apply(self.scheduler.limits)

    def _guess(self, guesser: Speculator) -> None:
        """Let tokens be guessed for those that wait for nothing else."""
        self._guessed.clear()
        if not self.scheduler.cache.cuttable:
            return  # wrong guesses could not be taken back
        ready = [s for s in self.scheduler.running if s.streaming and s.speculate and s.pending == 1 and not s.guesses]
        if not ready:
            return
        wanted = [Wanted(s, s.tokens, self.scheduler.room_for_guesses(s), s.blocks) for s in ready]
        streams = sum([s.pending for s in self.scheduler.running if s.streaming])
        budget = self.scheduler.limits.step - streams
        for sequence, guesses in zip(ready, guesser.plan(wanted, batch=streams, budget=budget), strict=True):
            sequence.guesses = guesses
            if guesses:
                self._guessed.add(sequence)

    # --- what came of it

    def _advance(self, plan: Plan, index: int, row: int) -> None:
        """What the step means for one sequence; an error in its own output ends only this one."""
        sequence, chunk = plan.sequences[index], plan.chunks[index]
        try:
            if sequence.scoring:
                first = chunk.start + len(chunk.tokens) - chunk.logits
                for offset in range(chunk.logits):
                    sequence.output.prompt_scored(first + offset, row + offset)
            if not sequence.streaming and (sequence.starts == 1 or sequence.generated == 0):
                sequence.output.prompt_computed(min(sequence.computed, sequence.prompt), sequence.prompt)
            if len(sequence.tokens) == sequence.computed:
                self._sample(sequence, row + chunk.logits - 1 - len(sequence.guesses))
        except Exception as error:
            if not isinstance(error, InfsError):
                self._log.exception("A request failed while its output was handled")
            self._end(sequence, GenerationFailed.of(error))

    def _sample(self, sequence: Sequence, row: int) -> None:
        """Choose the next token, and those behind it as long as they were guessed right."""
        sequence.streaming = True
        if sequence.max_new == 0:
            self._finish(sequence, "length")
            return
        guesses, accepted = sequence.guesses, 0
        while True:
            token = sequence.output.sample(row + accepted)
            reason = self._take(sequence, token)
            if reason is not None or accepted == len(guesses) or token != guesses[accepted]:
                break
            accepted += 1
        if guesses:
            self._check(sequence, accepted)
        if reason is None:
            reason = self._force(sequence)
        if reason is not None:
            self._finish(sequence, reason)

    def _take(self, sequence: Sequence, token: int) -> FinishReason | None:
        reason = sequence.output.accept(token)
        if not self.scheduler.sampled(sequence, token) and reason is None:
            return "length"
        return reason

    def _check(self, sequence: Sequence, accepted: int) -> None:
        guessed = len(sequence.guesses)
        self.scheduler.checked(sequence, accepted)
        if self._guesser is not None and sequence in self._guessed:
            self._guesser.checked(sequence, guessed, accepted)

    def _force(self, sequence: Sequence) -> FinishReason | None:
        """Append what must come next; it is computed with the next step, in one piece."""
        for token in sequence.output.forced():
            self.counters.forced_tokens += 1
            if (reason := self._take(sequence, token)) is not None:
                return reason
        if sequence.streaming and self.scheduler.cache.cuttable:  # and not just put back into the queue
            sequence.guesses = sequence.output.expected()[: self.scheduler.room_for_guesses(sequence)]
        return None

    # --- ends

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.scheduler.finish(sequence)
        self._forget(sequence)
        sequence.output.finished(reason, sequence.counts)

    def _forget(self, sequence: Sequence) -> None:
        if self._guesser is not None:
            self._guesser.forget(sequence)

    def _submit(self, sequence: Sequence) -> None:
        if self._closed:
            sequence.output.failed(ServerClosed("The model is being unloaded."))
            return
        try:
            self.scheduler.submit(sequence)
            if sequence.max_new != 0 and (reason := self._force(sequence)) is not None:
                self._finish(sequence, reason)
        except Exception as error:  # a wrong sequence must not end the thread
            sequence.output.failed(GenerationFailed.of(error))

    def _stop(self, sequence: Sequence) -> None:
        if sequence in self.scheduler.running or sequence in self.scheduler.waiting:
            self._finish(sequence, "stop")

    def _end(self, sequence: Sequence, error: InfsError) -> None:
        if sequence in self.scheduler.running or sequence in self.scheduler.waiting:
            self.scheduler.finish(sequence)
            self._forget(sequence)
            sequence.output.failed(error)

    def _lose_all(self, error: Exception) -> None:
        """The decoder failed, so its cells are in an unknown state: everybody who had some has lost them."""
        self._log.exception("A step failed; %d requests end with it", len(self.scheduler.running))
        lost = self.scheduler.reset()
        self.decoder.clear()
        for sequence in lost:
            self._forget(sequence)
            sequence.output.failed(GenerationFailed.of(error))
