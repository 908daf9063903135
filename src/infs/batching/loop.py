"""The thread that owns a decoder: a mailbox in, calls of each sequence's `Output` out.

Anybody may call `submit` and `cancel` from any thread at any time; they take effect before the next step. All
the rest happens on the loop's own thread, so neither the scheduler nor the decoder needs a lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from infs.batching.base import Decoder
from infs.batching.scheduler import Counters, Plan, Scheduler, Sequence
from infs.errors import GenerationFailed, InfsError, RequestCancelled, ServerClosed
from infs.types import FinishReason


class Loop:
    """Runs a scheduler's plans on a decoder until it is closed.

    Args:
        after_step: called on the loop's thread after outputs were called, once for each step: the place to wake
            whoever reads what the outputs collected.
    """

    def __init__(
        self,
        decoder: Decoder,
        scheduler: Scheduler,
        *,
        after_step: Callable[[], None] = lambda: None,
        log: logging.Logger | None = None,
    ) -> None:
        self.decoder = decoder
        self.scheduler = scheduler
        self._after_step = after_step
        self._log = log or logging.getLogger(__name__)
        self._mail: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._gone = False
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

    def close(self) -> None:
        """End all sequences in a failure and the thread with them; returns when it is gone."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

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
            try:
                self.step()
            except Exception as error:  # nothing may end this thread while somebody waits for it
                self._lose_all(error)
            self._after_step()
        self._leave()

    def _leave(self) -> None:
        with self._wake:
            self._gone = True
            letters, self._mail = self._mail, deque()
        for letter in letters:
            letter()
        for sequence in self.scheduler.reset():
            sequence.output.failed(ServerClosed("The model was unloaded while the request was running."))
        self._after_step()

    def _read_mail(self) -> bool:
        """Do what the letters say; wait for one if there is nothing else to do. False when closed."""
        with self._wake:
            while not (self._mail or self._closed or self.scheduler.busy):
                self._wake.wait()
            letters, self._mail = self._mail, deque()
        for letter in letters:
            letter()
        return not self._closed

    def step(self) -> None:
        """Schedule, compute, sample, publish."""
        plan = self.scheduler.plan()
        rows = self._compute(plan)
        self.scheduler.computed(plan)
        for index, row in enumerate(rows):
            self._advance(plan, index, row)

    def _compute(self, plan: Plan) -> list[int]:
        self.decoder.apply(plan.ops)
        return self.decoder.decode(plan.chunks) if plan.chunks else []

    def _advance(self, plan: Plan, index: int, row: int) -> None:
        """What the step means for one sequence; an error in its own output ends only this one."""
        sequence, chunk = plan.sequences[index], plan.chunks[index]
        try:
            if sequence.scoring:
                first = chunk.start + len(chunk.tokens) - chunk.logits
                for offset in range(chunk.logits):
                    sequence.output.prompt_scored(first + offset, row + offset)
            if sequence.computed <= sequence.prompt and not sequence.generated:
                sequence.output.prompt_computed(sequence.computed, sequence.prompt)
            if sequence.pending == 0:
                self._sample(sequence, row + chunk.logits - 1)
        except Exception as error:
            if not isinstance(error, InfsError):
                self._log.exception("A request failed while its output was handled")
            self._end(sequence, GenerationFailed.of(error))

    def _sample(self, sequence: Sequence, row: int) -> None:
        if sequence.max_new == 0:
            self._finish(sequence, "length")
            return
        token = sequence.output.sample(row)
        reason = sequence.output.accept(token)
        if not self.scheduler.sampled(sequence, token) and reason is None:
            reason = "length"
        if reason is not None:
            self._finish(sequence, reason)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.scheduler.finish(sequence)
        sequence.output.finished(reason, sequence.counts)

    def _submit(self, sequence: Sequence) -> None:
        if self._closed:
            sequence.output.failed(ServerClosed("The model is being unloaded."))
            return
        try:
            self.scheduler.submit(sequence)
        except Exception as error:  # a wrong sequence must not end the thread
            sequence.output.failed(GenerationFailed.of(error))

    def _stop(self, sequence: Sequence) -> None:
        if sequence in self.scheduler.running or sequence in self.scheduler.waiting:
            self._finish(sequence, "stop")

    def _end(self, sequence: Sequence, error: InfsError) -> None:
        if sequence in self.scheduler.running or sequence in self.scheduler.waiting:
            self.scheduler.finish(sequence)
            sequence.output.failed(error)

    def _lose_all(self, error: Exception) -> None:
        """The decoder failed, so its cells are in an unknown state: everybody who had some has lost them."""
        self._log.exception("A step failed; %d requests end with it", len(self.scheduler.running))
        lost = self.scheduler.reset()
        self.decoder.clear()
        for sequence in lost:
            sequence.output.failed(GenerationFailed.of(error))
