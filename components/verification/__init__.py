"""Was a model trained on the release? Tests, their calibration, the verdict, and audits of suspects."""
