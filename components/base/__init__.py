"""What every room rests on: errors, private files, locks, threads, progress."""
