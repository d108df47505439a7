"""Methods of marking a data set, side by side: same images, budget, adversaries and tests."""
