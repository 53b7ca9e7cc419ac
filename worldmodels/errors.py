"""The one exception a user is meant to see."""


class UserError(Exception):
    """A mistake the user can correct: one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2, without a traceback.
    """


def missing(what: str, extra: str) -> UserError:
    """For a package (`what`) of one of our extras."""
    return UserError(f"{what} is not installed: pip install 'worldmodels-pytorch[{extra}]' brings it.")
