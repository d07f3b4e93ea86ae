"""The Keras layers that a branched model adds."""
