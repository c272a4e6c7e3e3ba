"""Every error and warning of the library, one class per situation.

Callers catch `ExfilmlError` for anything a user can mend: the message says what
was given, what was expected and what to do. The command line turns it into one
line and exit status 2.
"""

from __future__ import annotations


class ExfilmlError(Exception):
    """Base of all errors that a user can mend."""


class SourceError(ExfilmlError):
    """A capture, log or folder cannot be read at all."""


class FlowsError(ExfilmlError, ValueError):
    """A table is not a flows table: columns missing, of a wrong type or impossible."""


class BaselineError(ExfilmlError, ValueError):
    """A baseline cannot teach a detector: no rows, or too few."""


class LabelsError(ExfilmlError, ValueError):
    """Labels and flows leave nothing to evaluate."""


class OptionError(ExfilmlError, ValueError):
    """An option has a value outside what it may take."""


class PolicyError(ExfilmlError, ValueError):
    """A policy file cannot be read, or says what no policy can say."""


class IntelError(ExfilmlError, ValueError):
    """A file of indicators cannot be read, or holds none."""


class AssetsError(ExfilmlError, ValueError):
    """A file of assets cannot be read, or holds none."""


class TriageFileError(ExfilmlError, ValueError):
    """A file of a triage is foreign, damaged or of a newer version."""


class FeedbackError(ExfilmlError, ValueError):
    """A feedback store or a judgement cannot be read, written or understood."""


class CarveError(ExfilmlError):
    """A capture does not hold the packets that were asked for."""


class ColumnMapError(ExfilmlError, ValueError):
    """A column map cannot be read, or says what no column map can say."""


class ModelFileError(ExfilmlError):
    """A model file, or an array file of the installation, is foreign or damaged."""


class StateError(ExfilmlError, ValueError):
    """A state of earlier calls is of another model, or damaged."""


class HistoryError(ExfilmlError):
    """A history store is foreign, damaged, in use, or of another site."""


class DependencyError(ExfilmlError):
    """A library that an extra installs is missing."""


class OutputError(ExfilmlError):
    """A result cannot be written."""


class ReportError(ExfilmlError, ValueError):
    """What a report was asked of is neither a ranking nor a triage."""


class ExfilmlWarning(UserWarning):
    """Base of all warnings: the result is usable, and the text says what is lost."""


class SourceWarning(ExfilmlWarning):
    """A part of the input could not be read; the text counts what was lost."""


class CapabilityWarning(ExfilmlWarning):
    """The model and the flows do not see the same things."""


class CalibrationWarning(ExfilmlWarning):
    """The baseline is too short for the alert budget or rate that was asked for."""


class FlowsWarning(ExfilmlWarning):
    """Rows of a flows table are possible, but probably wrong."""


class SiteWarning(ExfilmlWarning):
    """The flows are not what the model's baseline prepared it for: site or time."""


class BaselineWarning(ExfilmlWarning):
    """A part of the baseline looks as if it should not be learned from."""


class StateWarning(ExfilmlWarning):
    """Flows do not follow what a state knows: some may count twice, or be foreign."""


class IntelWarning(ExfilmlWarning):
    """Some indicators cannot be matched; the text counts them and says why."""


class AssetsWarning(ExfilmlWarning):
    """Some assets cannot be read, or contradict each other."""


class FeedbackWarning(ExfilmlWarning):
    """Some judgements cannot be read, or their clocks are wrong."""


class CarveWarning(ExfilmlWarning):
    """Flows of a case cannot be looked for in a capture."""
