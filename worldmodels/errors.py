"""The one exception a user is meant to see."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2, without a traceback.
    """
