"""Formats of what is published, and its transfer: releases, evidence, keep, raw drops and records of submissions."""
