"""Stages of training a GAN, each done once and resumed where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from augmentation import EpochNumber, augment

import keras_branch_prune as kbp
from keras_branch_prune.zoo import DCGAN


@dataclass(frozen=True)
class Stage:
    """What a stage has left behind.

    Its models are loaded anew whenever they are asked for, not compiled: whoever trains on with one
    changes no other.

    Attributes:
        run: The folder of all stages.
        name: Name of this one.
    """

    run: kbp.RunFolder
    name: str

    @property
    def generator(self) -> keras.Model:
        """The generator."""
        return self.run.load(self.name)["generator"]

    @property
    def discriminator(self) -> keras.Model:
        """The discriminator, with which the next stage goes on."""
        return self.run.load(self.name)["discriminator"]

    @property
    def history(self) -> list[dict[str, float]]:
        """The logs of its epochs."""
        return self.run.history(self.name)


@dataclass(frozen=True)
class Training:
    """What all stages share.

    Attributes:
        run: Every finished stage is a folder in it.
        images: `(count, height, width, channels)` in [−1, 1].
        noise: `(samples, noise)`, with which the generator's statistics are re-estimated.
        batch_size: Images per step; those that fill no whole batch are left out.
        learning_rate: Of both optimizers.
        distillation: Weight of the distance to a teacher.
        seed: Decides order and noise of every epoch.
    """

    run: kbp.RunFolder
    images: np.ndarray
    noise: np.ndarray
    batch_size: int
    learning_rate: float
    distillation: float
    seed: int

    def stage(
        self,
        name: str,
        begin: Callable[[], tuple[keras.Model, keras.Model]],
        epochs: int,
        *,
        teacher: keras.Model | None = None,
        decay: kbp.AlphaCallback | None = None,
    ) -> Stage:
        """Returns a stage, trained and saved unless that is done.

        Args:
            name: Name of the stage and of its folder.
            begin: Returns generator and discriminator, which are trained in place.
            epochs: Number of epochs.
            teacher: Whose images the generator is to match.
            decay: Lets α fall, at a constant learning rate. Without it the learning rate falls to 0
                along a cosine.

        Raises:
            RuntimeError: If the training diverged.
        """

        def train(folder: Path) -> dict[str, keras.Model]:
            print(f"\nStage '{name}'")
            keras.utils.set_random_seed(self.seed)
            gan = self._gan(*begin(), teacher, epochs, falling=decay is None)
            self._fit(gan, kbp.EpochBackup(folder), epochs, [decay] if decay else [])
            return {"generator": gan.generator, "discriminator": gan.discriminator}

        self.run.stage(name, train)
        return Stage(self.run, name)

    def _gan(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        teacher: keras.Model | None,
        epochs: int,
        falling: bool,
    ) -> DCGAN:
        gan = DCGAN(
            generator,
            discriminator,
            teacher=teacher,
            distillation=self.distillation,
            seed=self.seed,
        )
        rate = self.learning_rate
        if falling:
            steps = epochs * (len(self.images) // self.batch_size)
            rate = keras.optimizers.schedules.CosineDecay(rate, steps)
        # On CPUs, XLA makes transposed convolutions many times slower.
        gan.compile(*(keras.optimizers.Adam(rate, beta_1=0.5) for _ in "GD"), jit_compile=False)
        return gan

    def _fit(
        self,
        gan: DCGAN,
        backup: kbp.EpochBackup,
        epochs: int,
        decay: Sequence[kbp.AlphaCallback],
    ) -> None:
        clock, guard = GanClock(self.seed), kbp.StopOnNonFinite()
        statistics = kbp.ReestimateBatchNorm(self.noise, self.batch_size)
        whole = self.images[: len(self.images) // self.batch_size * self.batch_size]
        gan.fit(
            augment(
                whole,
                np.zeros(len(whole)),
                self.batch_size,
                self.seed,
                max_shift=0,
                epoch=clock.variable,
            ),
            epochs=epochs,
            initial_epoch=backup.restore(gan),
            callbacks=[clock, *decay, statistics, guard, backup],
            shuffle=False,
            verbose=2,
        )
        if guard.stopped_epoch is not None:
            raise RuntimeError(f"Training diverged in epoch {guard.stopped_epoch + 1}")


class GanClock(EpochNumber):
    """Sets order and noise at the beginning of an epoch, so that a resumed training goes on alike.

    Args:
        seed: Decides them, together with the number of the epoch.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the variable and the GAN's noise before the epoch's first batch is made."""
        super().on_epoch_begin(epoch, logs)
        state = self.model.noise_seed.state
        state.assign(np.random.SeedSequence((self._seed, epoch)).generate_state(*state.shape))
