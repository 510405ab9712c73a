"""The tables and figures of the papers, by number, for any classifier and data."""
