"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """A problem the user can mend: the message names the file, row or field, what was kept, and the remedy.

    Commands print it as one line and exit with code 2; anything else that escapes is a defect of ours.
    """


def check(good: bool, name: str, value: object, remedy: str) -> None:
    """Raise UserError, naming the setting and its value, where it is not `good`."""
    if not good:
        raise UserError(f"{name}={value!r} is out of range: {remedy}")
