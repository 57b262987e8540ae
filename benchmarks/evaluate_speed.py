"""All MOSES metrics against `get_all_metrics` of the molsets 0.3.1 wheel: seconds, peak memory, and the values.

Both sides score the same random MOSES training molecules in a process of their own, in turn, with the reference
statistics already computed. The wheel's code is unpacked at run time and patched only where it no longer imports.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import median, options, run_measured, write

SHOWN = ("FCD/Test", "SNN/Test", "Scaf/Test", "IntDiv", "FCD/TestSF")
CLOSE = 1e-3  # largest relative difference of a value


def theirs(file: Path, threads: int) -> dict[str, float]:
    """What the wheel returns."""
    import peer  # not at the top: our worker processes read this file, and should not import torch for it

    with tempfile.TemporaryDirectory() as folder:
        return peer.moses_metrics(Path(folder)).get_all_metrics(file.read_text().split(), n_jobs=threads)


def ours(file: Path, threads: int) -> dict[str, float]:
    """The same figures from molvae."""
    from molvae.metrics.molecule_table import describe_all, prepare
    from molvae.runtime.workers import Workers

    with Workers(threads) as workers:
        workers.start(prepare)
        import torch

        from molvae.metrics.suite import SampleSet, compute, moses_figures
        from molvae.stages.reference import cache_folder, cached_references, cached_training

        torch.set_num_threads(threads)
        references, training = (read("moses", cache_folder()) for read in (cached_references, cached_training))
        samples = SampleSet(describe_all(file.read_text().split(), workers=workers), workers=workers)
        return {name: found.value for name, found in compute(moses_figures(samples, references, training))[0].items()}


def measure(n: int, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds and peak memory of both sides in turn, and their values."""
    from molvae.stages.reference import cache_folder, cached_references, cached_training

    training = cached_training("moses", cache_folder(), workers=threads)
    cached_references("moses", cache_folder(), workers=threads)
    sides: dict[str, list[dict[str, float]]] = {"moses": [], "molvae": []}
    values: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        samples, out = Path(folder) / "samples.smi", Path(folder) / "values.json"
        samples.write_text("\n".join(training.draw[-n:]) + "\n")
        for _ in range(rounds):
            for name, runs in sides.items():
                command = [sys.executable, __file__, "--side", name, "--threads", str(threads), str(samples), str(out)]
                runs.append(run_measured(command))
                values[name] = json.loads(out.read_text())
                print(f"{name:8} {runs[-1]['seconds']:7.1f} s  peak {runs[-1]['peak_mb']:7.0f} MB", flush=True)
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(sides["moses"], sides["molvae"], strict=True)]
    # scipy's cosine of integer counts overflows in the wheel's Frag: not a difference of definition
    differing = {
        name: [values["moses"][name], value]
        for name, value in values["molvae"].items()
        if abs(values["moses"][name] - value) > CLOSE * abs(value) + 1e-9
    }
    return {
        "samples": n, "threads": threads, "rounds": sides, "ratio": median(ratios), "values": values,
        "differing": differing,
        "memory_ratio": median([a["peak_mb"] / b["peak_mb"] for a, b in zip(*sides.values(), strict=True)]),
    }  # fmt: skip


def main() -> None:
    if "--side" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--side", choices=["moses", "molvae"])
        parser.add_argument("--threads", type=int)
        parser.add_argument("samples", type=Path)
        parser.add_argument("out", type=Path)
        chosen = parser.parse_args()
        side = theirs if chosen.side == "moses" else ours
        chosen.out.write_text(json.dumps(side(chosen.samples, chosen.threads)))
        return
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--rounds", type=int, default=2, help="not with --quick")
    arguments = parser.parse_args()
    result = (
        measure(500, 1, arguments.threads) if arguments.quick else measure(30_000, arguments.rounds, arguments.threads)
    )
    write(arguments.json, result)
    for name in SHOWN:
        if name in result["values"]["molvae"]:
            print(f"{name:12} {result['values']['moses'][name]:.5f} {result['values']['molvae'][name]:.5f}")
    print(f"values that differ: {result['differing'] or 'none'}")
    print(f"peak memory {result['memory_ratio']:.1f} times ours")
    print(f"ratio {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
