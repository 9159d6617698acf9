"""Frozen values: ids, documents, jobs, verdicts; no behaviour to speak of."""
