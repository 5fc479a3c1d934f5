"""Checkpoints: arrays and a dictionary that survive any kill, full disk or damaged file. It knows nothing of models.

`Saver` writes them (trainer.checkpoint.save), `newest_good` finds the last one that is whole, and `Checkpoint.read`
reads any slice of it (trainer.checkpoint.load). docs/checkpoints.md says what is guaranteed.
"""

from trainer.checkpoint.load import ArrayInfo, Checkpoint, Found, Quarantined, abandon_after, newest_good, open_step
from trainer.checkpoint.pieces import Owned
from trainer.checkpoint.records import Damaged
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.save import Blocked, Outcome, Saver

__all__ = [
    "ArrayInfo",
    "Blocked",
    "Checkpoint",
    "Damaged",
    "Found",
    "Outcome",
    "Owned",
    "Quarantined",
    "Retention",
    "Saver",
    "abandon_after",
    "newest_good",
    "open_step",
]
