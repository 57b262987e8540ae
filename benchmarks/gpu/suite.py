"""Speed, training, sampling and agreement with a CPU on a machine with a GPU, PyTorch and numpy and nothing else.

Run from the repository root: `python benchmarks/gpu/suite.py COMMAND --tokens packed.npz --out FOLDER`. README.md says
what each command writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import agree
import learn
import speed
from common import PRECISIONS, SIZES, Packed, print_line, read_packed
from weights import read_weights

from molvae.nn.vae import VAE
from molvae.training.distributed import join_process_group


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("throughput", "train", "sample", "agree"):
        command = commands.add_parser(name)
        command.add_argument("--tokens", type=Path, required=True, help="file that pack.py wrote")
        command.add_argument("--out", type=Path, required=True, help="folder for the results")
        command.add_argument("--merges", type=int, help="only the first so many merged tokens; 0: a token a symbol")
        command.add_argument("--device", default="cuda", help="cuda or cpu")
        command.add_argument("--quick", action="store_true", help="smaller: under 60 s on two CPU cores")
        command.add_argument("--json", type=Path, help="write the result to this file, too")
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


QUICK = {  # options of each command with --quick, which shows that it runs
    "throughput": {"sizes": ["moses"], "batches": [8], "seconds": 0.1},
    "train": {
        "model": {"encoder_hidden": 32, "decoder_hidden": 32},
        "train": {"epochs": 1, "batch_size": 16},
        "prior": {"draws": 1000, "steps": 20, "components": 4},
        "minutes": 0.5,
        "samples": 100,
    },
    "sample": {"sizes": ["moses"], "seconds": 0.1},
    "agree": {},
}


def load_models(packed: Packed, arguments: argparse.Namespace, names: list[str]) -> dict[str, VAE]:
    """Load the trained model, or initialise untrained ones of these sizes."""
    if not arguments.weights:
        return {name: packed.init_network(packed.make_model_settings(name)) for name in names}
    settings = json.loads((arguments.weights / "train.json").read_text())["model"]
    model = packed.init_network(packed.make_settings("model", **settings))
    model.load_state_dict(read_weights(arguments.weights)["model"])
    return {"trained": model}


def main() -> None:
    arguments = make_parser().parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK[arguments.command])
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    packed, out = read_packed(arguments.tokens, arguments.merges), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    counts = ", ".join(f"{split} {len(part)}" for split, part in packed.splits.items())
    print_line(f"{arguments.command} on {device}: {counts} molecules")
    if arguments.command == "train":
        with join_process_group(device) as group:
            learn.train(
                packed,
                out,
                device,
                group,
                model=arguments.model,
                settings=arguments.train,
                prior=arguments.prior,
                minutes=arguments.minutes,
                samples=arguments.samples,
            )
    elif arguments.command == "throughput":
        speed.measure_throughput(
            packed,
            out,
            device,
            sizes=arguments.sizes,
            batches=arguments.batches,
            precisions=arguments.precisions,
            seconds=arguments.seconds,
            peer=arguments.peer,
            smiles=arguments.smiles,
        )
    elif arguments.command == "sample":
        speed.measure_sampling(
            packed,
            out,
            device,
            models=load_models(packed, arguments, arguments.sizes),
            trained=bool(arguments.weights),
            precisions=arguments.precisions,
            seconds=arguments.seconds,
            peer=arguments.peer,
            smiles=arguments.smiles,
        )
    else:
        (model,) = load_models(packed, arguments, ["default"]).values()
        agree.measure_agreement(
            packed, out, device, model=model, trained=bool(arguments.weights), precisions=arguments.precisions
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / f"{arguments.command}.json", arguments.json)


if __name__ == "__main__":
    main()
