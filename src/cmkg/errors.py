"""The exceptions that mean: the input is at fault, and here is what to do."""


class InputError(ValueError):
    """One sentence for the user: which file and field, what was expected, what came, what to do.

    The command line prints it and ends with exit code 2.
    """


class Diverged(ArithmeticError):
    """A loss is not finite: training has left the numbers at this learning rate or strength.

    No InputError: the input may be good. The command line prints it and ends with exit code 1.
    """
