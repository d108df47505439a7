"""Attack a mark before others do."""
