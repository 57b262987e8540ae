"""Speed, training, sampling and agreement with a CPU on a machine with a GPU, PyTorch and numpy and nothing else.

Run from the repository root: `python benchmarks/gpu/suite.py COMMAND --tokens packed.npz --out FOLDER`. README.md says
what each command writes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import agree
import learn
import speed
from common import PRECISIONS, SIZES, Packed, read, say
from weights import read_weights

from molvae.nn.vae import VAE
from molvae.training.distributed import joined


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("throughput", "train", "sample", "agree"):
        command = commands.add_parser(name)
        command.add_argument("--tokens", type=Path, required=True, help="file that pack.py wrote")
        command.add_argument("--out", type=Path, required=True, help="folder for the results")
        command.add_argument("--merges", type=int, help="only the first so many merged tokens; 0: a token a symbol")
        command.add_argument("--device", default="cuda", help="cuda or cpu")
        if name != "train":
            command.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
        if name in ("throughput", "sample"):
            command.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
            command.add_argument("--seconds", type=float, default=3.0, help="of each cell")
            command.add_argument("--peer", type=Path, help="folder with an unpacked molsets wheel")
            command.add_argument("--smiles", type=Path, help="file with SMILES for it, one a line")
        if name == "throughput":
            command.add_argument("--batches", type=int, nargs="+", default=[512, 1024, 2048, 4096])
        if name in ("sample", "agree"):
            command.add_argument(
                "--weights", type=Path, help="folder that `train` wrote; else the models are untrained"
            )
        if name == "train":
            command.add_argument("--model", type=json.loads, default={}, help="model settings to change, as JSON")
            command.add_argument("--train", type=json.loads, default={}, help="training settings to change, as JSON")
            command.add_argument("--prior", type=json.loads, default={}, help="settings of fitted priors to change")
            command.add_argument("--minutes", type=float, default=7.0, help="of training; sampling takes one more")
            command.add_argument("--samples", type=int, default=30_000, help="strings of each set")
    return parser


def models(packed: Packed, arguments: argparse.Namespace, names: list[str]) -> dict[str, VAE]:
    """The trained model, or untrained ones of these sizes."""
    if not arguments.weights:
        return {name: packed.network(packed.sizes(name)) for name in names}
    settings = json.loads((arguments.weights / "train.json").read_text())["model"]
    model = packed.network(packed.settings("model", **settings))
    model.load_state_dict(read_weights(arguments.weights)["model"])
    return {"trained": model}


def main() -> None:
    arguments = options().parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    packed, out = read(arguments.tokens, arguments.merges), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    say(f"{arguments.command} on {device}: {', '.join(f'{k} {len(v)}' for k, v in packed.splits.items())} molecules")
    if arguments.command == "train":
        with joined(device) as group:
            learn.train(
                packed, out, device, group, model=arguments.model, settings=arguments.train,
                prior=arguments.prior, minutes=arguments.minutes, samples=arguments.samples,
            )  # fmt: skip
    elif arguments.command == "throughput":
        speed.throughput(
            packed, out, device, sizes=arguments.sizes, batches=arguments.batches, wanted=arguments.precisions,
            seconds=arguments.seconds, peer=arguments.peer, smiles=arguments.smiles,
        )  # fmt: skip
    elif arguments.command == "sample":
        speed.sample(
            packed, out, device, models=models(packed, arguments, arguments.sizes), trained=bool(arguments.weights),
            wanted=arguments.precisions, seconds=arguments.seconds, peer=arguments.peer, smiles=arguments.smiles,
        )  # fmt: skip
    else:
        (model,) = models(packed, arguments, ["default"]).values()
        agree.agree(packed, out, device, model=model, trained=bool(arguments.weights), wanted=arguments.precisions)


if __name__ == "__main__":
    main()
