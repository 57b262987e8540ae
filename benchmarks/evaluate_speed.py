"""All MOSES metrics against `get_all_metrics` of the molsets 0.3.1 wheel: seconds, peak memory, and the values.

Both sides score the same random MOSES training molecules in a process of their own, in turn, with the reference
statistics already computed. The wheel's code is unpacked at run time and patched only where it no longer imports. With
--quick the training molecules, which novelty is about, are a few of the shipped ones, whose index takes seconds.
Then `molvae evaluate` on a new machine: CPU seconds of its first call and of the next with as many samples, one thread,
downloads excluded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import compute_median, make_parser, print_ratio, run_measured, write_result

# nothing else at the top: our worker processes read this file, and should not wait for what they do not need

MOSES = "moses"  # the data set; as `molvae.data.moses` calls it
SHOWN = ("FCD/Test", "SNN/Test", "Scaf/Test", "IntDiv", "FCD/TestSF")
TOLERANCE = 1e-3  # largest relative difference of a value


def compute_peer_values(file: Path, training: str, threads: int) -> dict[str, float]:
    """Compute the metrics of the samples in a file by the wheel's code."""
    import peer

    train = None if training == MOSES else Path(training).read_text().split()
    with tempfile.TemporaryDirectory() as folder:
        metrics = peer.import_moses_metrics(Path(folder))
        return metrics.get_all_metrics(file.read_text().split(), n_jobs=threads, train=train)


def compute_our_values(file: Path, training: str, threads: int) -> dict[str, float]:
    """Compute the same metrics by molvae."""
    from molvae.metrics.molecule_table import describe_smiles, warm_up
    from molvae.runtime.workers import Workers

    with Workers(threads) as workers:
        workers.start(warm_up)
        import torch

        from molvae.metrics.reference_cache import get_cache_folder, load_cached_references, load_cached_training_set
        from molvae.metrics.sample_set import SampleSet
        from molvae.metrics.suite import build_moses_metrics, compute_metrics

        torch.set_num_threads(threads)
        references = load_cached_references(MOSES, get_cache_folder())
        training_set = load_cached_training_set(training, get_cache_folder())
        samples = SampleSet(describe_smiles(file.read_text().split(), workers=workers), workers=workers)
        estimates, _ = compute_metrics(build_moses_metrics(samples, references, training_set))
        return {name: estimate.value for name, estimate in estimates.items()}


def measure(training: str, n: int, rounds: int, threads: int) -> dict[str, Any]:
    """Measure seconds and peak memory of both sides in turn, and compare their values.

    Args:
        training: "moses" or a file with training molecules.
        n: random ones of them that are scored.
        rounds: how often.
        threads: of both sides.
    """
    from molvae.metrics.reference_cache import get_cache_folder, load_cached_references, load_cached_training_set

    training_set = load_cached_training_set(training, get_cache_folder(), workers=threads)
    load_cached_references(MOSES, get_cache_folder(), workers=threads)
    usage: dict[str, list[dict[str, float]]] = {"moses": [], "molvae": []}
    values: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        samples, out = Path(folder) / "samples.smi", Path(folder) / "values.json"
        samples.write_text("\n".join(training_set.smiles[-n:]) + "\n")
        for _ in range(rounds):
            for side, measured in usage.items():
                options = ["--side", side, "--threads", str(threads), "--training", training]
                measured.append(run_measured([sys.executable, __file__, *options, str(samples), str(out)]))
                values[side] = json.loads(out.read_text())
                print(f"{side:8} {measured[-1]['seconds']:7.1f} s  peak {measured[-1]['peak_mb']:7.0f} MB", flush=True)
    pairs = list(zip(usage["moses"], usage["molvae"], strict=True))
    # scipy's cosine of integer counts overflows in the wheel's Frag: not a difference of definition
    differing = {
        name: [values["moses"][name], value]
        for name, value in values["molvae"].items()
        if abs(values["moses"][name] - value) > TOLERANCE * abs(value) + 1e-9
    }
    return {
        "samples": n,
        "threads": threads,
        "rounds": usage,
        "ratio": compute_median([peer["seconds"] / ours["seconds"] for peer, ours in pairs]),
        "values": values,
        "differing": differing,
        "memory_ratio": compute_median([peer["peak_mb"] / ours["peak_mb"] for peer, ours in pairs]),
    }


def measure_calls(training: str, n: int) -> dict[str, Any]:
    """Measure the CPU seconds of two calls of `molvae evaluate` that share a cache, at first empty.

    Args:
        training: "moses" or a file with training molecules.
        n: of the shipped molecules that are scored.
    """
    from example import read_example

    from molvae.metrics.reference_cache import get_cache_folder

    with tempfile.TemporaryDirectory() as folder:
        cache, samples = Path(folder) / "cache", Path(folder) / "samples.smi"
        shutil.copytree(get_cache_folder() / "downloads", cache / "downloads")
        samples.write_text("\n".join(read_example(n)) + "\n")
        command = [sys.executable, "-m", "molvae", "evaluate", str(samples), "--train", training, "--threads", "1"]
        calls = {}
        for call in ("first", "second"):
            calls[call] = run_measured(command, env={**os.environ, "MOLVAE_CACHE": str(cache)})
            print(f"{call} call {calls[call]['cpu_seconds']:.0f} CPU s", flush=True)
    return {"samples": n, **calls}


def write_values() -> None:
    """Write the values of one side; what the process of that side does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["moses", "molvae"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--training")
    parser.add_argument("samples", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    compute_values = compute_peer_values if arguments.side == "moses" else compute_our_values
    arguments.out.write_text(json.dumps(compute_values(arguments.samples, arguments.training, arguments.threads)))


def main() -> None:
    if "--side" in sys.argv:
        write_values()
        return
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--rounds", type=int, default=2, help="not with --quick")
    arguments = parser.parse_args()
    if arguments.quick:
        from example import write_example

        with tempfile.TemporaryDirectory() as folder:
            training = str(write_example(500, Path(folder)))
            result = measure(training, 200, 1, arguments.threads)
            result["calls"] = measure_calls(training, 200)
    else:
        result = measure(MOSES, 30_000, arguments.rounds, arguments.threads)
        result["calls"] = measure_calls(MOSES, 3000)
    write_result(arguments.json, result)
    for name in SHOWN:
        if name in result["values"]["molvae"]:
            print(f"{name:12} {result['values']['moses'][name]:.5f} {result['values']['molvae'][name]:.5f}")
    print(f"values that differ: {result['differing'] or 'none'}")
    print(f"peak memory {result['memory_ratio']:.1f} times ours")
    print_ratio(result["ratio"])


if __name__ == "__main__":
    main()
