"""What every room may use: errors, units, records, tables, the run folder. None of it imports torch."""
