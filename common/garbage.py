"""The garbage collector, kept from what stays.

Orders, levels and trades hold no cycles, nor does what requests and connections leave behind:
reference counts free them (``tests/test_garbage.py``). Looking through all of them again and again
would stop the service the longer, the more there are. So each object is looked at once, while it is
young, and then left alone. Where much more is left alone than before, all is looked at once more:
what libraries leave behind, such as a webhook whose target does not answer, must not stay for ever.
"""

import gc
import logging

# So many young objects are one collection: few, so that no pause is felt.
YOUNG_OBJECTS = 1_000
# So many more than twice those that stayed the last time are much; some 25 MB of garbage.
MANY_MORE = 200_000

log = logging.getLogger(__name__)


class Collector:
    """Python's own, of which a process has one."""

    def __init__(self) -> None:
        self._collections = 0
        self._stayed = 0

    def spare(self) -> None:
        """From now on look at each object once; to be called when all is loaded."""
        gc.collect()
        gc.freeze()
        self._stayed = gc.get_freeze_count()
        gc.set_threshold(YOUNG_OBJECTS)
        gc.callbacks.append(self._leave_alone)

    async def look_again(self) -> None:
        """See whether much more is left alone; to be called regularly."""
        # To count them stops the service as well, 5 ms for two million. A collection leaves few
        # more than it looked at, so before this many collections it cannot be much more.
        if self._collections * YOUNG_OBJECTS < self._stayed + MANY_MORE:
            return
        self._collections = 0
        before = gc.get_freeze_count()
        if before > 2 * self._stayed + MANY_MORE:
            gc.unfreeze()
            gc.collect()
            self._stayed = gc.get_freeze_count()
            log.info("looked at %d objects once more, %d stay", before, self._stayed)

    def _leave_alone(self, phase: str, _: object) -> None:
        """Keep the collector away from what it has looked at."""
        if phase == "stop":
            self._collections += 1
            gc.freeze()
