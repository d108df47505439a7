"""Attack a marked release and the models trained on it, and measure what is left of the mark."""
