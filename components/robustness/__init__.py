"""What adversaries do to a marked release and to their models, and what is then left of the mark."""
