"""Where a classifier looks: EigenCAM maps, and Grad-CAM for comparison."""
