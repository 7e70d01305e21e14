"""Exceptions for invalid input and diverged training, with messages that say what to do."""


class InputError(ValueError):
    """Invalid input; the message names the file and field, what was expected and found, and a fix.

    The command line prints it and exits with code 2.
    """


class Diverged(ArithmeticError):
    """A loss is not finite: training diverged at this learning rate or prior strength.

    It is not an InputError, since the input may be valid. The command line prints it and exits with
    code 1.
    """
