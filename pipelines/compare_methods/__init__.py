"""Compare methods of marking a data set on the same images, budget, adversaries and tests."""
