"""Methods of marking a data set, side by side: same images, budget, thieves and tests."""
