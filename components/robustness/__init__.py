"""What adversaries do to a marked release and to their models, and what is left of the mark then."""
