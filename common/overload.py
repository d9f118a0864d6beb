"""What a service that has fallen behind still takes on.

Requests wait in their sockets until the event loop comes round to them. More than it can answer
make each round longer, and soon everybody waits for seconds. So a service that is behind refuses
what may have waited too long already: the others are served the sooner, as far as a refusal costs
less than an answer. What was measured stands in docs/performance.md.

Only its own work counts. While the machine gives its core to others, or a disk is slow, all come
late too, but to refuse some would answer nobody sooner.
"""

from collections import deque

# How often to look whether the event loop comes round in time.
BEAT_S = 0.005
# Late is what would be felt; behind is who was late so many of the latest times. Once or twice may
# be a pause after which the service catches up by itself. Not each time: long and short rounds may
# alternate, where those that were answered together ask again together.
LATE_S = 0.030
LATE_BEATS, LATEST_BEATS = 3, 5
# After this nobody catches up in time: where twice as much comes as can be answered, the next round
# is twice as long.
FAR_TOO_LATE_S = 0.1
# Who is behind refuses what may have waited longer than this, and counts as behind until it has
# refused nobody for a while. It is well above two beats, since what comes between them may have
# waited as long as that also where nothing waits: at two beats a service stays behind for ever.
WAIT_MAX_S = 0.020
CALM_S = 1.0


class Overload:
    """Whether the event loop is behind, and what to do then.

    Instants are monotonic seconds, and ``worked_s`` is the CPU time of the process until then.
    """

    def __init__(self, now_s: float, worked_s: float) -> None:
        self.is_behind = False
        self._refused_s = now_s
        self._latest_late = deque[bool](maxlen=LATEST_BEATS)
        self.begin(now_s, worked_s)

    def begin(self, now_s: float, worked_s: float) -> None:
        """Rounds count from now on. What the start worked before is no round, and kept nobody."""
        self._round_s = self._previous_round_s = now_s
        self._worked_s = worked_s

    def beat(self, now_s: float, worked_s: float) -> None:
        """To be called ``BEAT_S`` after the last time, by a loop that is not late."""
        # Threads may work at the same time, so the work may be more than the time.
        late_s = min(now_s - self._round_s, worked_s - self._worked_s) - BEAT_S
        self._previous_round_s, self._round_s = self._round_s, now_s
        self._worked_s = worked_s
        self._latest_late.append(late_s > LATE_S)
        is_late = late_s > FAR_TOO_LATE_S or sum(self._latest_late) >= LATE_BEATS
        if is_late and not self.is_behind:
            self.is_behind = True
            self._refused_s = now_s
        elif self.is_behind:
            self.is_behind = now_s - self._refused_s < CALM_S

    def admits(self, now_s: float) -> bool:
        """Whether one more request is taken on in this round.

        When it came nobody knows, but it was after the last round had begun to look.
        """
        if not self.is_behind or now_s - self._previous_round_s < WAIT_MAX_S:
            return True
        self._refused_s = now_s
        return False
