"""Mark a segmentation model, and check that the mark works and costs nothing."""
