"""Packaging of keras_branch_prune; the settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

EXAMPLES = [
    "absl-py",
    "matplotlib",
    "tensorflow-datasets",
    # tensorflow-datasets 4.9 imports importlib_resources without declaring it.
    "importlib_resources",
    "scikit-image",
    "scikit-learn",
]
REPORT = ["matplotlib"]
# A SavedModel needs TensorFlow only, which also converts to LiteRT; the other formats have tools of
# their own, and each needs its runtime to be verified.
LITERT = ["ai-edge-litert"]
ONNX = ["onnx", "onnxruntime", "tf2onnx"]
OPENVINO = ["openvino"]
EXPORT = [*LITERT, *ONNX, *OPENVINO]
TEST = ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", *EXAMPLES, *REPORT, *EXPORT]

readme = Path(__file__).parent / "README.md"

setup(
    name="keras_branch_prune",
    version="0.1.0",
    description="Structured pruning of Keras 3 models by blending in narrow branches.",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["keras_branch_prune", "keras_branch_prune.*"]),
    python_requires=">=3.10",
    install_requires=["tensorflow>=2.18", "keras>=3.8", "h5py", "numpy"],
    extras_require={
        "examples": EXAMPLES,
        "report": REPORT,
        "litert": LITERT,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "export": EXPORT,
        "test": TEST,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
