"""From a trained model to a compact one in a single resumable call, and the controls for it."""
