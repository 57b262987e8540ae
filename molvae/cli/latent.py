"""The commands that work in the latent space of a model. As in `molvae.cli.main` there is no logic here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

MoleculeFile = Annotated[Path, typer.Argument(help="molecules: .smi, .csv, .tsv or .parquet, text also .gz")]
ModelOption = Annotated[Path, typer.Option("--model", help="model folder, or pretrained:NAME")]
Table = Annotated[str, typer.Option("--out", help="file .csv or .parquet; - is stdout")]
Column = Annotated[str | None, typer.Option(help="column with the SMILES [default: SMILES or the like]")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="of all random numbers")]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="longest string, in tokens, its end counted; longer ones are cut [default: the model's]"),
]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 takes the likeliest token at each step; above, they are drawn")
]


@app.command()
def encode(file: MoleculeFile, model: ModelOption, out: Table, column: Column = None) -> None:
    """Encode molecules: mean and log-variance of each in the latent space, a row for each row."""
    from molvae.commands.latent_space import check_table_path, encode_file, write_table

    check_table_path(out)
    write_table(encode_file(file, model, column), out)


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="table with columns z_0 … or mu_0 …, as `molvae encode` writes it")],
    model: ModelOption,
    out: Table,
    draws: Annotated[int, typer.Option(min=1, help="molecules decoded from each point")] = 1,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
) -> None:
    """Decode molecules from latent points."""
    from molvae.commands.latent_space import check_table_path, decode_file, write_table

    check_table_path(out)
    table = decode_file(file, model, draws=draws, temperature=temperature, seed=seed, max_tokens=max_tokens)
    write_table(table, out)


@app.command()
def likelihood(
    file: MoleculeFile,
    model: ModelOption,
    out: Table,
    column: Column = None,
    draws: Annotated[int, typer.Option(min=1, help="of each latent point: the bound tightens with more")] = 16,
    seed: Seed = 0,
) -> None:
    """Estimate a lower bound of log p(x) for each molecule, in nats."""
    from molvae.commands.latent_space import check_table_path, score_likelihood, write_table

    check_table_path(out)
    write_table(score_likelihood(file, model, column, draws=draws, seed=seed), out)


@app.command()
def interpolate(
    start: Annotated[str, typer.Argument(help="SMILES")],
    end: Annotated[str, typer.Argument(help="SMILES")],
    model: ModelOption,
    out: Table = "-",
    steps: Annotated[int, typer.Option(min=2, help="points of the path, both ends included")] = 8,
    max_tokens: MaxTokens = None,
) -> None:
    """Decode molecules on the path from one to another."""
    from molvae.commands.latent_space import check_table_path, interpolate_molecules, write_table

    check_table_path(out)
    write_table(interpolate_molecules(start, end, model, steps, max_tokens=max_tokens), out)


@app.command()
def neighbors(
    smiles: Annotated[str, typer.Argument(help="SMILES")],
    model: ModelOption,
    out: Table = "-",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="latent points drawn")] = 100,
    radius: Annotated[float, typer.Option(min=0, help="1: draws of the molecule's posterior; 0: its mean")] = 0.5,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
) -> None:
    """Decode molecules near one, with how often each occurs and how similar it is."""
    from molvae.commands.latent_space import check_table_path, sample_neighbors, write_table

    check_table_path(out)
    write_table(sample_neighbors(smiles, model, n, radius, seed=seed, max_tokens=max_tokens), out)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="table of molecules: .csv, .tsv or .parquet, text also .gz")],
    target: Annotated[str, typer.Option(help="column with the property; rows without a number are predicted")],
    model: ModelOption,
    out: Table,
    column: Column = None,
    seed: Seed = 0,
) -> None:
    """Predict a property from latent points, with R² and mean absolute error, beside a prediction from fingerprints."""
    from molvae.cli.console import print_frame
    from molvae.commands.latent_space import check_table_path, predict_property, write_table

    check_table_path(out)
    table, scores = predict_property(file, target, model, column, seed=seed)
    write_table(table, out)
    if out != "-":
        print_frame(scores)


@app.command()
def optimize(
    model: ModelOption,
    out: Table,
    objective: Annotated[
        str, typer.Option(help="qed, penalised_logp, or FILE.py:FUNCTION of a SMILES; larger is better")
    ],
    calls: Annotated[int, typer.Option(min=1, help="of the objective, at most")] = 1000,
    start: Annotated[
        list[str] | None, typer.Option(help="SMILES to begin with; may be given several times [default: the prior]")
    ] = None,
    similar_to: Annotated[str | None, typer.Option(help="SMILES that molecules have to be similar to")] = None,
    min_similarity: Annotated[
        float, typer.Option(min=0, max=1, help="to --similar-to: Tanimoto, Morgan fingerprints")
    ] = 0.4,
    history: Annotated[
        Path | None, typer.Option(help="history of an earlier search, whose molecules cost no call; may be --out")
    ] = None,
    seed: Seed = 0,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="seconds that the objective may take for a molecule; then it has no score")
    ] = 300.0,
    max_tokens: MaxTokens = None,
) -> None:
    """Search for molecules that score better; the history has a row for each that was scored."""
    from molvae.cli.console import print_search
    from molvae.commands.latent_space import check_table_path
    from molvae.commands.optimize import optimize

    check_table_path(out)
    table = optimize(
        model, objective, calls, start=start or [], similar_to=similar_to, min_similarity=min_similarity,
        history=history, out=out, seed=seed, time_limit=time_limit, max_tokens=max_tokens,
    )  # fmt: skip
    if out != "-":
        print_search(table)
