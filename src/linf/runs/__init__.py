"""What surrounds a run: its folder, ranks, signals, record, sweep and search."""
