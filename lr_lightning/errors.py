"""The exceptions of the package, and text that is safe to print."""

import re

MISTAKE = 2  # exit code after an InputError
FAILURE = 1
LONGEST = 2000  # characters of a message; the name of a column may have a megabyte
# Control characters, line separators, marks of writing direction, lone surrogates, and blanks of no width.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff]")


class InputError(ValueError):
    """A file, column, option or checkpoint that cannot be used.

    The message is one line that says what is wrong and what to do about it. The command line prints it and exits
    with code 2; in Python it is a `ValueError`. Line breaks in the message become blanks, and other characters that
    would control a terminal are escaped.

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
    """Another process of a fit by several processes has ended or does not answer."""


def printable(text: str) -> str:
    r"""The text with characters that would control a terminal escaped, such as \x1b."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
