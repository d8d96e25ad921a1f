"""Numbers from answers and scores, with intervals; no model is asked here."""
