import dataclasses

from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.timing import Peak, Timing, VariantResult


def _result(*milliseconds):
    timings = [Timing("cpu", 1, ms, ms * 2, (ms, ms * 1.25), ms * 10) for ms in milliseconds]
    return BenchmarkResult(
        tuple(
            VariantResult(
                f"v{index}",
                1000 // (index + 1),
                None,
                (),
                {"saved_model": 8.0 / (index + 1)},
                (timing,),
            )
            for index, timing in enumerate(timings)
        ),
        {"TensorFlow": "2.21.0", "GPU": None, "threads": "1"},
    )


def test_one_backend():
    assert str(_result(3.0, 1.5)) == (
        "                                      v0             v1             ratio\n"
        "------------------------------------  -------------  -------------  -----------------\n"
        "parameters                            1,000          500            2.00×\n"
        "file size, MiB                        8.00           4.00           2.00×\n"
        "time/image at batch 1, CPU, ms (p95)  3.000 (6.000)  1.500 (3.000)  2.00× (2.00–2.00)\n"
        "RAM at batch 1, MiB                   30.0           15.0           2.00×\n"
        "\n"
        "Measured with TensorFlow 2.21.0, threads 1.\n"
        "In brackets behind a ratio: range over the rounds, too few for a 95 % confidence interval "
        "of the median ratio."
    )


def test_several_backends_and_threads():
    def variant(name, ms, *backends):
        timings = tuple(
            Timing("cpu", 8, ms, ms, (ms, 2 * ms, *[ms] * 7), None, None, backend, threads)
            for backend in backends
            for threads in (None, 1, 2)
        )
        return VariantResult(name, None, 5_000_000, (), dict.fromkeys(backends, ms), timings)

    slow = variant("slow", 4.0, "litert", "keras")
    exported = dataclasses.replace(variant("exported", 2.0, "litert"), macs=None)
    peaks = (Peak("cpu", None, 50.0), Peak("cpu", 1, 10.0))
    lines = str(BenchmarkResult((slow, exported), {"rounds": 9}, peaks)).splitlines()
    times, shares = "time/image at batch 8", "share of the matmul peak at batch 8"
    assert [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines] == [
        ["slow", "exported", "ratio"],
        ["-" * len(f"{shares}, litert, threads by default, CPU, %"), *["-" * 13] * 2, "-" * 17],
        ["MACs per image", "5,000,000", "–", "–"],
        ["file size, litert, MiB", "4.00", "2.00", "2.00×"],
        ["file size, keras, MiB", "4.00", "–", "–"],
        *(
            [f"{times}, litert, {threads}, CPU, ms (p95)", *_SLOW, *_FAST]
            for threads in ("threads by default", "1 thread", "2 threads")
        ),
        *(
            [f"{times}, keras, {threads}, CPU, ms (p95)", *_SLOW, "–", "–"]
            for threads in ("threads by default", "1 thread", "2 threads")
        ),
        *(
            [f"{shares}, {backend}, {threads}, CPU, %", share, "–", "–"]
            for backend in ("litert", "keras")
            for threads, share in (("threads by default", "5.0"), ("1 thread", "25.0"))
        ),
        [],
        ["Measured with rounds 9."],
        ["In brackets behind a ratio: 95 % confidence interval of the median ratio."],
        ["Matmul peak, CPU, threads by default: 50.0 GFLOP/s in float32."],
        ["Matmul peak, CPU, 1 thread: 10.0 GFLOP/s in float32."],
    ]


_SLOW = ["4.000 (4.000)"]
_FAST = ["2.000 (2.000)", "2.00× (2.00–2.00)"]


def test_a_gpu_and_what_is_not_counted():
    variant = _result(3.0).variants[0]
    gpu = dataclasses.replace(variant.timings[0], device="gpu", vram_mib=77.0)
    variant = dataclasses.replace(variant, uncounted=("lstm",), timings=(variant.timings[0], gpu))
    table = str(BenchmarkResult((variant,), {"GPU": "H100"}))
    assert "time/image at batch 1, GPU, ms (p95)" in table
    assert "VRAM at batch 1, MiB                  77.0" in table
    assert "Measured with GPU H100." in table
    assert "Not in the MACs of 'v0': lstm." in table
    assert "In brackets" not in table
