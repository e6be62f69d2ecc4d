"""Tells whether a run is learning: raises alarms in words, with their remedy, from the lines of the log."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dinolab.methods.base import Alarm

WINDOW = 5  # lines of the log that must agree before an alarm is raised


@dataclass
class Alarms:
    """Looks at the log's lines as they come, and raises each of the method's alarms once."""

    known: Sequence[Alarm]
    patience: int  # steps before which nothing counts as trouble
    last: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    raised: set[str] = field(default_factory=set)

    def look(self, line: Mapping[str, float]) -> list[str]:
        """Return the new alarms after this line of the log: those that all of the last few lines show."""
        self.last.append(line)
        if len(self.last) < WINDOW or line["step"] < self.patience:
            return []
        new = [
            alarm
            for alarm in self.known
            if alarm.name not in self.raised and all(alarm.shown_by(line) for line in self.last)
        ]
        self.raised |= {alarm.name for alarm in new}
        return [f"{alarm.name}: {alarm.remedy}" for alarm in sorted(new)]
