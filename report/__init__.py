"""Results for the user to look at: figures, tables and the demo."""
