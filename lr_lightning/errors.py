"""The one exception that says: the person, not the program, has to change something."""


class InputError(ValueError):
    """A file, column, option or checkpoint that cannot be used.

    The message is one plain line that names what is wrong and what to do about it. The command line prints
    it and exits with code 2; a library user catches it as a `ValueError`. Line breaks in a message (a column
    can be named with one) become blanks.

    Example:
        >>> from lr_lightning import InputError, LogisticRegression
        >>> try:
        ...     LogisticRegression(l2=-1.0)
        ... except InputError as error:
        ...     print(error)
        l2 must be a finite number of at least 0, not -1.0
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class ProcessLostError(RuntimeError):
    """Another of several processes has ended or does not answer, so that the work cannot go on."""
