"""The one exception that says: the person, not the program, has to change something."""

import re

MISTAKE = 2  # the exit code of a mistake that the person can mend
FAILURE = 1
LONGEST = 2000  # characters of a message; a table's column may be named with a megabyte
# Control characters, separators of lines, marks that reverse the direction, half characters, and blanks of no width.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff]")


class InputError(ValueError):
    """A file, column, option or checkpoint that cannot be used.

    The message is one plain line that names what is wrong and what to do about it. The command line prints
    it and exits with code 2; a library user catches it as a `ValueError`. Line breaks in a message (a column
    can be named with one) become blanks, and other characters that would act on a terminal are spelled out.

    Example:
        >>> from lr_lightning import InputError, LogisticRegression
        >>> try:
        ...     LogisticRegression(l2=-1.0)
        ... except InputError as error:
        ...     print(error)
        l2 must be a finite number of at least 0, not -1.0
    """

    def __init__(self, message: str):
        first, *others = message.splitlines() or [""]
        line = printable(" ".join([first, *(other.lstrip() for other in others)]))
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
        super().__init__(line)


class ProcessLostError(RuntimeError):
    """Another of several processes has ended or does not answer, so that the work cannot go on."""


def printable(text: str) -> str:
    r"""The text as a terminal may show it: an escape character, for example, as \x1b."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
