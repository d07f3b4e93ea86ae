"""Makes any `fit` safe, resumable and better."""
