"""A model as a flat graph that is held as data: read from Keras, rewritten, and built again."""
