"""Mark segmentation models through their uncertainty, and prove whose they are."""
