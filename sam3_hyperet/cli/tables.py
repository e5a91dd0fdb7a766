"""Tables as they are printed: within a terminal's width, or in full in a log."""

from rich.console import Console
from rich.table import Table

_LOG_COLUMNS = 400


def print_table(console: Console, table: Table) -> None:
    """Print a table; where there is no terminal, as wide as it is."""
    if console.is_terminal:
        console.print(table)
    else:
        console.print(table, width=_LOG_COLUMNS, crop=False)
