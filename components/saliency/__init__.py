"""EigenCAM saliency: where a classifier looks."""
