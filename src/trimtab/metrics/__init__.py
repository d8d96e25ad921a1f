"""Metrics of answers and scores, with intervals; no model is run here."""
