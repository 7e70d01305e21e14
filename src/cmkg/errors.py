"""The one exception that means: the input is at fault, and here is what to do."""


class InputError(ValueError):
    """One sentence for the user: which file and field, what was expected, what came, what to do.
    Exit code 2."""
