"""SavedModels as TensorFlow reads them."""

import tensorflow as tf


def signature_of(path):
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]
    signature.owner = loaded  # a signature does not keep its model alive
    return signature


def tensors_of(inputs):
    return {name: tf.constant(x) for name, x in inputs.items()}


def is_frozen(path):
    stored = [name for name, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    return not any("model_variables" in name for name in stored)
