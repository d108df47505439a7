"""The hypothesis tests, their calibration on benign models, the verdict, and the audit of suspects."""
