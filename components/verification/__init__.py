"""The hypothesis tests, their calibration and the verdict."""
