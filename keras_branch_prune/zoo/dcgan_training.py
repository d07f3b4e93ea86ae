"""A GAN that is trained by `fit`, of which one model may be branched."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_branch_prune.common import require, require_integer, require_number_up_to


class DCGAN(keras.Model):
    """Trains a generator against a discriminator, both in one step (Radford et al., 2016).

    With the logits D of the discriminator, images x and generated images G(z):

    * `discriminator_loss` is `mean softplus(−D(x)) + mean softplus(D(G(z)))`, the two
      cross-entropies;
    * `generator_loss` is `mean softplus(−D(G(z)))`, the loss that does not saturate (Goodfellow et
      al., 2014);
    * `distillation_loss`, with a teacher only, is `mean |T(z) − G(z)|` for the same noise.

    The generator is trained on `generator_loss + distillation · distillation_loss`. Losses that the
    models add themselves (regularization) count in full and are not logged.

    To prune a generator, branch it and pass it as `generator`; the α callbacks find it. A
    discriminator is pruned likewise. Only one of the two may be branched at a time, as a model has
    one α.

    The teacher runs in inference mode and is never trained. Its weights are not among those of the
    GAN. Save `gan.generator`, not the GAN. `EpochBackup` resumes with both optimizers;
    `AlphaBacktracking` and `StopOnNonFinite` take both models and both optimizers back. A GAN is
    called on noise, so that `ReestimateBatchNorm` takes noise and re-estimates the generator; the
    discriminator's statistics stay.

    Args:
        generator: A functional model from noise `(batch, noise)` to images
            `(batch, height, width, channels)`, such as `dcgan_generator`; branched or not.
        discriminator: A functional model from such images to logits `(batch, 1)`.
        teacher: A model whose images the generator is to match, such as the one that was given to
            `branch`; or None.
        distillation: Weight of the distillation loss, at least 0; not used without a teacher.
        seed: Seed of the noise, an integer; None takes a random one.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Attributes:
        generator: As given.
        discriminator: As given.
        noise_seed: The `keras.random.SeedGenerator` of the noise. Keras does not save its state: a
            training that is to be resumed with the same noise must set it in every epoch.

    Raises:
        ValueError: If an argument is not a model of one input and one output, shapes do not fit
            together, or `distillation` is out of range.

    Example:
        >>> branched = kbp.branch(generator, kbp.plan(generator, width=0.5))
        >>> gan = kbp.zoo.DCGAN(branched, discriminator, teacher=generator, distillation=10.0)
        >>> gan.compile()
        >>> gan.fit(2 * images - 1, epochs=12, callbacks=[kbp.AlphaStepDecay(0.1)])
        >>> compact = kbp.merge(gan.generator)
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        *,
        teacher: keras.Model | None = None,
        distillation: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        _check_gan(generator, discriminator, teacher)
        weight = require_number_up_to("distillation", distillation, at_most=math.inf)
        if seed is not None:
            seed = require_integer("seed", seed, at_least=0)
        # The models cast their inputs themselves: cast here, float32 layers get rounded ones.
        super().__init__(dtype=generator.dtype_policy, autocast=False, **kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self._distillation = weight
        self.noise_seed = keras.random.SeedGenerator(seed)
        # Held by plain objects, in which Keras does not look for layers and metrics to save.
        self._call_teacher = None if teacher is None else functools.partial(teacher, training=False)
        self._logged = _LossMeans(distillation=teacher is not None)
        self.supports_jit = generator.supports_jit and discriminator.supports_jit
        self.built = True

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures the training.

        Args:
            generator_optimizer: A Keras optimizer, or its name; None takes Adam with a learning
                rate of 2e-4 and `beta_1=0.5`, as in the paper. It becomes `gan.optimizer`.
            discriminator_optimizer: Another one, likewise.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` of `keras.Model.compile`.

        Raises:
            ValueError: If both optimizers are the same object.
        """
        generators, discriminators = map(
            _get_optimizer, (generator_optimizer, discriminator_optimizer)
        )
        if generators is discriminators:
            raise ValueError(
                "`discriminator_optimizer` must be another optimizer than `generator_optimizer`, "
                f"as each keeps the state of its own model. Received: {discriminators!r} for both"
            )
        super().compile(optimizer=generators, **kwargs)
        scaling = keras.optimizers.LossScaleOptimizer
        if isinstance(self.optimizer, scaling) and not isinstance(discriminators, scaling):
            # `super().compile` wraps only the optimizer that it knows, as float16 asks for.
            discriminators = scaling(discriminators)
        self.discriminator_optimizer = discriminators
        # Built later, `optimizer` would be built for the variables of both models.
        self.optimizer.build(self.generator.trainable_variables)
        discriminators.build(self.discriminator.trainable_variables)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns the images `(batch, height, width, channels)` made of noise `(batch, noise)`."""
        return self.generator(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Trains both models on a batch of images; labels and sample weights are not used."""
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as generator_tape, tf.GradientTape() as discriminator_tape:
            # Once for both tapes: the generator's images are judged by the discriminator before
            # either is updated.
            losses = self._compute_losses(images, training=True)
            generator_total = losses["generator_loss"] + _sum_added_losses(self.generator)
            if self._call_teacher is not None:
                generator_total = generator_total + self._distillation * losses["distillation_loss"]
            discriminator_total = losses["discriminator_loss"] + _sum_added_losses(
                self.discriminator
            )
            generator_total = self.optimizer.scale_loss(generator_total)
            discriminator_total = self.discriminator_optimizer.scale_loss(discriminator_total)
        generator_gradients = _compute_gradients(generator_tape, generator_total, self.generator)
        discriminator_gradients = _compute_gradients(
            discriminator_tape, discriminator_total, self.discriminator
        )
        self.optimizer.apply(generator_gradients, self.generator.trainable_variables)
        self.discriminator_optimizer.apply(
            discriminator_gradients, self.discriminator.trainable_variables
        )
        return self._logged.update(losses, ops.shape(images)[0])

    def test_step(self, data: Any) -> dict[str, Any]:
        """Computes the losses on a batch of images, both models in inference mode."""
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self._logged.update(
            self._compute_losses(images, training=False), ops.shape(images)[0]
        )

    def _compute_losses(self, images: Any, training: bool) -> dict[str, Any]:
        noise = keras.random.normal(
            (ops.shape(images)[0], self.generator.inputs[0].shape[1]), seed=self.noise_seed
        )
        generated = self.generator(noise, training=training)
        real = ops.cast(self.discriminator(images, training=training), "float32")
        fake = ops.cast(self.discriminator(generated, training=training), "float32")
        losses = {
            "generator_loss": ops.mean(ops.softplus(-fake)),
            "discriminator_loss": ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)),
        }
        if self._call_teacher is not None:
            target = ops.cast(ops.stop_gradient(self._call_teacher(noise)), "float32")
            error = ops.abs(target - ops.cast(generated, "float32"))
            losses["distillation_loss"] = ops.mean(error)
        return losses

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the logs."""
        return list(self._logged.trackers.values())

    def get_config(self) -> dict[str, Any]:
        """Raises `NotImplementedError`: the teacher would be saved, too."""
        raise NotImplementedError(
            "A DCGAN cannot be saved as a whole; save `gan.generator` and `gan.discriminator`."
        )


class _LossMeans:
    """Means of the losses over the images of an epoch."""

    def __init__(self, distillation: bool):
        names = ("generator_loss", "discriminator_loss", *["distillation_loss"] * distillation)
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def update(self, losses: dict[str, Any], batch_size: Any) -> dict[str, Any]:
        for name, loss in losses.items():
            self.trackers[name].update_state(loss, sample_weight=batch_size)
        return {name: tracker.result() for name, tracker in self.trackers.items()}


def _sum_added_losses(model: keras.Model) -> Any:
    return sum((ops.sum(ops.cast(loss, "float32")) for loss in model.losses), ops.zeros(()))


def _compute_gradients(tape: tf.GradientTape, loss: Any, model: keras.Model) -> list[Any]:
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def _get_optimizer(given: Any) -> keras.optimizers.Optimizer:
    if given is None:
        return keras.optimizers.Adam(2e-4, beta_1=0.5)
    return keras.optimizers.get(given)


def _check_gan(generator: Any, discriminator: Any, teacher: Any) -> None:
    noise, images = _require_shapes("generator", generator)
    if len(noise) != 2 or len(images) != 4:
        raise ValueError(
            "`generator` must go from (batch, noise) to (batch, height, width, channels). "
            f"Received: a model from {noise} to {images}"
        )
    if (found := _require_shapes("discriminator", discriminator)) != (images, (None, 1)):
        raise ValueError(
            f"`discriminator` must go from the generator's images {images} to logits (None, 1). "
            f"Received: a model from {found[0]} to {found[1]}"
        )
    if teacher is None:
        return
    if teacher is generator or (taught := _require_shapes("teacher", teacher)) != (noise, images):
        other = "the generator itself" if teacher is generator else f"a model {taught}"
        raise ValueError(
            f"`teacher` must be another model from {noise} to {images}. Received: {other}"
        )


def _require_shapes(argument: str, model: Any) -> tuple[tuple, tuple]:
    """Returns the shapes of a model's one input and one output, or raises `ValueError`."""
    inputs: Any = getattr(model, "inputs", None) or ()
    outputs: Any = getattr(model, "outputs", None) or ()
    fits = isinstance(model, keras.Model) and (len(inputs), len(outputs)) == (1, 1)
    expected = "a built functional or Sequential model of one input and one output"
    require(fits, argument, model, expected)
    return tuple(inputs[0].shape), tuple(outputs[0].shape)
