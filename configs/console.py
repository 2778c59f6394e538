"""The terminal: text as it is."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, stderr: bool = False) -> "Console":
    """A console that prints paths and names as they are: brackets in them are no markup, colons no emoji."""
    from rich.console import Console  # not at the top of the file: --help should not wait for it

    return Console(markup=False, emoji=False, highlight=False, stderr=stderr)
