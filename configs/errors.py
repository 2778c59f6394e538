"""The one exception that is meant for the user."""


class UserError(ValueError):
    """A problem the user can fix: the message names the file, row or field, what was kept, and the remedy.

    Commands print it as one line and exit with code 2; any other exception that escapes is a bug.
    """


def check(good: bool, name: str, value: object, remedy: str) -> None:
    """Raise UserError, naming the setting and its value, unless `good`."""
    if not good:
        raise UserError(f"{name}={value!r} is out of range: {remedy}")
