"""The verbs: one step each, with its retries; here engine and catalog meet."""
