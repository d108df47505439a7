"""The one exception that medmark raises on purpose."""


class MedmarkError(Exception):
    """Something the user can put right.

    The message is one line: what is wrong, where, and what to do about it. The command line prints it and exits
    non-zero; a traceback appears only with ``--debug``.
    """
