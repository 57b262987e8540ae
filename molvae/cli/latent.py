"""The commands that work in the latent space of a model. As in `molvae.cli.main` there is no logic here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

ModelOption = Annotated[Path, typer.Option("--model", help="model folder, or pretrained:NAME")]
Table = Annotated[str, typer.Option("--out", help="file .csv or .parquet; - is stdout")]
Column = Annotated[str | None, typer.Option(help="with the SMILES [default: the one called so]")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="of all random numbers")]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 takes the likeliest token at each step; above, they are drawn")
]


@app.command()
def encode(
    file: Annotated[Path, typer.Argument(help="molecules: .smi, .csv, .tsv or .parquet, text also .gz")],
    model: ModelOption, out: Table, column: Column = None,
) -> None:  # fmt: skip
    """Where molecules lie in the latent space: mean and log-variance of each, a row for each row."""
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    latent_space.write(latent_space.encode(file, model, column), out)


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="table with columns z_0 … or mu_0 …, as `molvae encode` writes it")],
    model: ModelOption, out: Table,
    draws: Annotated[int, typer.Option(min=1, help="molecules written for each point")] = 1,
    temperature: Temperature = 0.0, seed: Seed = 0,
) -> None:  # fmt: skip
    """Molecules at latent points."""
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    latent_space.write(latent_space.decode(file, model, draws=draws, temperature=temperature, seed=seed), out)


@app.command()
def likelihood(
    file: Annotated[Path, typer.Argument(help="molecules: .smi, .csv, .tsv or .parquet, text also .gz")],
    model: ModelOption, out: Table, column: Column = None,
    draws: Annotated[int, typer.Option(min=1, help="of each latent point: more come nearer to log p(x)")] = 16,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """How likely the model holds molecules to be: a lower bound of log p(x), nats."""
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    latent_space.write(latent_space.likelihood(file, model, column, draws=draws, seed=seed), out)


@app.command()
def interpolate(
    start: Annotated[str, typer.Argument(help="SMILES")],
    end: Annotated[str, typer.Argument(help="SMILES")],
    model: ModelOption, out: Table = "-",
    steps: Annotated[int, typer.Option(min=2, help="points on the way, both ends included")] = 8,
) -> None:  # fmt: skip
    """Molecules on the way from one to another."""
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    latent_space.write(latent_space.interpolate(start, end, model, steps), out)


@app.command()
def neighbors(
    smiles: Annotated[str, typer.Argument(help="SMILES")],
    model: ModelOption, out: Table = "-",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="latent points drawn")] = 100,
    radius: Annotated[float, typer.Option(min=0, help="1: draws of the molecule's posterior; 0: its mean")] = 0.5,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """What the model writes near a molecule, with how often and how similar it is."""
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    latent_space.write(latent_space.neighbors(smiles, model, n, radius, seed=seed), out)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="table of molecules: .csv, .tsv or .parquet, text also .gz")],
    target: Annotated[str, typer.Option(help="column with the property; rows without a number are predicted")],
    model: ModelOption, out: Table, column: Column = None, seed: Seed = 0,
) -> None:  # fmt: skip
    """A property predicted from latent points, and how well: R², mean absolute error, the same from fingerprints."""
    from molvae.cli.console import print_frame
    from molvae.commands import latent_space

    latent_space.check_suffix(out)
    found, scores = latent_space.predict(file, target, model, column, seed=seed)
    latent_space.write(found, out)
    if out != "-":
        print_frame(scores)


@app.command()
def optimize(
    model: ModelOption, out: Table,
    score: Annotated[str, typer.Option(help="qed, penalised_logp, or FILE.py:FUNCTION of a SMILES; larger is better")],
    calls: Annotated[int, typer.Option(min=1, help="of the scoring function, at most")] = 1000,
    start: Annotated[
        list[str] | None, typer.Option(help="SMILES to begin with; may be given several times [default: the prior]")
    ] = None,
    like: Annotated[str | None, typer.Option(help="SMILES that molecules have to be similar to")] = None,
    similarity: Annotated[
        float, typer.Option(min=0, max=1, help="to --like, at least: Tanimoto, Morgan fingerprints")
    ] = 0.4,
    known: Annotated[
        Path | None, typer.Option(help="ledger of an earlier search, whose molecules cost no call; may be --out")
    ] = None,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Search for molecules that score better; the ledger has a row for each that was scored."""
    from molvae.cli.console import print_frame
    from molvae.commands import latent_space
    from molvae.commands.optimize import optimize

    latent_space.check_suffix(out)
    ledger = optimize(
        model, score, calls, start=start or [], like=like, similarity=similarity, known=known, out=out, seed=seed
    )  # fmt: skip
    if out != "-":
        failed = int(ledger["score"].isna().sum())
        print(f"optimize: {len(ledger)} molecules scored, {failed} failed; the best:")
        print_frame(ledger.nlargest(5, "score")[["call", "score", "smiles"]])
