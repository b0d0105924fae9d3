"""The errors a user is meant to read."""


class InputError(Exception):
    """Something the user gave is wrong: one line saying what, where, and what to do.

    The command line prints it to stderr without a traceback and exits with code 2.
    """


class MethodError(Exception):
    """A user's own method failed while its cell was trained: one line saying which, where, and why.

    The command line prints it to stderr without a traceback and exits with code 1.
    """
