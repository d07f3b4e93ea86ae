"""Fashion-MNIST for tensorflow-datasets, prepared from files that are already on the machine."""

from pathlib import Path

import tensorflow_datasets as tfds

PARTS = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
FILES = tuple(name for names in PARTS.values() for name in names)


class FashionMnistFiles(tfds.image_classification.FashionMNIST, skip_registration=True):
    """The data set's own builder, fed with local files instead of downloads.

    The files are the four original ones, packed by whom it may be: distributions pack them anew,
    so their check sums are not those that tensorflow-datasets expects of a download.

    Args:
        files_dir: The directory with the four `.gz` files.
        data_dir: Where the prepared data set is kept.
    """

    name = "fashion_mnist_files"

    def __init__(self, *, files_dir: Path, data_dir: Path) -> None:
        self._files_dir = Path(files_dir)
        super().__init__(data_dir=data_dir)

    def _split_generators(self, dl_manager):
        splits = {}
        for split, names in PARTS.items():
            images, labels = dl_manager.extract([self._files_dir / name for name in names])
            splits[split] = self._generate_examples(_count(images), images, labels)
        return splits


def _count(path: Path) -> int:
    """Reads the number of images from the header of an unpacked IDX file."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8)[4:], "big")
