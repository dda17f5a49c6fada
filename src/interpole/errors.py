"""The exceptions of Interpole: each says what is wrong, where, and what to do about it.

InterpoleError
├── CheckpointError        a checkpoint cannot be found, read or understood
│   ├── CorruptError       its bytes contradict themselves (truncated, lying header, missing shard)
│   └── UnreachableError   its bytes cannot be fetched now; what was made of others stays
├── MismatchError          two checkpoints do not fit each other
├── RecipeError            a recipe or one of its values makes no sense
├── OutputError            a result cannot be written (exists already, disk full, no permission)
├── TaskError              a benchmark or its data cannot be used
├── EngineError            generation failed
├── RunError               a run folder cannot be read, or does not match what is asked of it
└── AnalysisError          the data at hand cannot answer the question
InterpoleWarning           something allowed, but likely not what was meant

`printable` makes text from anybody fit to be shown; the text of every error has gone through it.
"""

import re

__all__ = [
    "AnalysisError",
    "CheckpointError",
    "CorruptError",
    "EngineError",
    "InterpoleError",
    "InterpoleWarning",
    "MismatchError",
    "OutputError",
    "RecipeError",
    "RunError",
    "TaskError",
    "UnreachableError",
    "printable",
    "reason_of",
]

_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""Text from anybody, as it may go to a terminal, a picture or a file name: shown, not obeyed.

    Control characters and escapes (all but line ends and tabs), what turns the direction of writing, and halves of characters
    become visible, e.g. `\x1b`.
    """
    return _UNSHOWABLE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def reason_of(error: Exception) -> str:
    """What an error of Python's says went wrong: without the number and the path, where the machine gave it."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class InterpoleError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what is wrong, with the names and both sides of a clash.
        where: the file, tensor, line or setting it was seen in.
        remedy: what the reader can do now; one sentence, or a command.
    """

    def __init__(self, what: str, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        lines = [what, f"where: {where}" if self.where else "", f"remedy: {remedy}" if remedy else ""]
        super().__init__(printable("\n  ".join(line for line in lines if line)))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickle by the three parts, so that errors cross process borders whole."""
        return type(self), (self.what, self.where, self.remedy)


class CheckpointError(InterpoleError):
    """A checkpoint cannot be found, read or understood."""


class CorruptError(CheckpointError):
    """A checkpoint's bytes contradict themselves."""


class UnreachableError(CheckpointError):
    """A checkpoint's bytes cannot be fetched now."""


class MismatchError(InterpoleError):
    """Two checkpoints do not fit each other."""


class RecipeError(InterpoleError):
    """A recipe or one of its values makes no sense."""


class OutputError(InterpoleError):
    """A result cannot be written."""


class TaskError(InterpoleError):
    """A benchmark or its data cannot be used."""


class EngineError(InterpoleError):
    """Generation failed."""


class RunError(InterpoleError):
    """A run folder cannot be read, or does not match what is asked of it."""


class AnalysisError(InterpoleError):
    """The data at hand cannot answer the question."""


class InterpoleWarning(UserWarning):
    """Something allowed, but likely not what was meant."""
