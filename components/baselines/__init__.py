"""Other methods of marking a data set, and medmark's own behind the same interface."""
