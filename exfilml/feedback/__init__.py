"""What analysts say of cases, kept in a file, and what follows from it.

`Feedback` is the file. From it come a bounded order of cases (`rerank`), drafts of
approvals (`Feedback.suppressions`) and precision over time (`Feedback.precision`). None
of them makes or removes an alert: that takes a policy, which a person puts in force.
"""

from exfilml.feedback._cases import read_cases, read_judgements
from exfilml.feedback._precision import Precision
from exfilml.feedback._rerank import rerank
from exfilml.feedback._store import Feedback
from exfilml.feedback._suppress import Suppressions, check_draft

__all__ = [
    "Feedback",
    "Precision",
    "Suppressions",
    "check_draft",
    "read_cases",
    "read_judgements",
    "rerank",
]
