"""The peer's side of a comparison: the MOSES VAE out of the `molsets` 0.3.1 wheel, its own code, defaults, vocabulary.

pip downloads the wheel once, to where the pipeline keeps it, and Python imports from it as it is. Only what the VAE
needs is imported: the package's own `__init__` imports libraries that no longer install.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from molvae.data.moses import download_moses_wheel

DOWNLOADS = Path(__file__).parent.parent / "results/datasets/downloads"  # where `data.source: moses` has it, too


def get_wheel() -> Path:
    """Get the wheel, downloaded where it is missing, its checksum tested."""
    return download_moses_wheel(DOWNLOADS)


@cache
def import_moses() -> SimpleNamespace:
    """Import the modules that the VAE is made of: model, config, misc, utils."""
    _add_packages(str(get_wheel()), "moses", "moses.vae")
    names = {"model": "moses.vae.model", "config": "moses.vae.config", "misc": "moses.vae.misc", "utils": "moses.utils"}
    modules = SimpleNamespace(**{short: importlib.import_module(name) for short, name in names.items()})
    # `sample` keeps its masks as uint8, which torch no longer assigns through; bool is what it made of them
    modules.model.torch = SimpleNamespace(**{**vars(torch), "uint8": torch.bool})
    return modules


def import_moses_metrics(folder: Path) -> ModuleType:
    """Import the module with `get_all_metrics`; the wheel is unpacked into `folder`, because its data are read there.

    It is patched at run time where it no longer imports: `rdkit.six` and `DataFrame.append` are gone.
    """
    import pandas as pd

    with zipfile.ZipFile(get_wheel()) as archive:
        archive.extractall(folder)
    six, moves = ModuleType("rdkit.six"), ModuleType("rdkit.six.moves")
    six.iteritems, six.moves, moves.cPickle, moves.xrange = lambda items: iter(items.items()), moves, pickle, range
    sys.modules.update({"rdkit.six": six, "rdkit.six.moves": moves})
    pd.DataFrame.append = lambda table, rows, **options: pd.concat([table, rows], **options)
    _add_packages(str(folder), "moses", "moses.metrics")
    return importlib.import_module("moses.metrics.metrics")


def _add_packages(source: str, *packages: str) -> None:
    """Make packages importable from a folder or a wheel without running their `__init__`, which imports too much."""
    for name in packages:
        package = ModuleType(name)
        package.__path__ = [f"{source}/{name.replace('.', '/')}"]
        sys.modules[name] = package
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError:  # moses.utils imports it for plots, which nobody draws here
        plots = sys.modules["matplotlib.pyplot"] = ModuleType("matplotlib.pyplot")
        sys.modules["matplotlib"] = ModuleType("matplotlib")
        sys.modules["matplotlib"].pyplot = plots


class Peer:
    """A new MOSES VAE for molecules, and what its trainer does."""

    def __init__(self, smiles: Sequence[str], seed: int = 0, **sizes: int) -> None:
        """Build the network.

        Args:
            smiles: molecules whose characters make its vocabulary.
            seed: of the weights.
            sizes: options of its own parser that are not to be the defaults.
        """
        options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
        self.config = import_moses().config.get_parser().parse_args(options)
        torch.manual_seed(seed)
        self.model = import_moses().model.VAE(import_moses().utils.OneHotVocab.from_data(smiles), self.config)
        self.optimizer = torch.optim.Adam(self._iter_parameters(), lr=self.config.lr_start)

    def update(self, smiles: list[str], kl_weight: float) -> tuple[float, float]:
        """Update the weights once as its trainer does, collating included; returns its KL and reconstruction terms."""
        self.model.train()
        kl, reconstruction = self.model(self._collate(smiles))
        loss = kl_weight * kl + reconstruction
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._iter_parameters(), self.config.clip_grad)
        self.optimizer.step()
        values = kl.item(), reconstruction.item()
        loss.item()  # its trainer waits for all three
        return values

    def sample(self, count: int, batch_size: int) -> list[str]:
        """Sample `count` strings by its own sampler, `batch_size` at a time."""
        self.model.eval()
        strings: list[str] = []
        while len(strings) < count:
            strings += self.model.sample(min(batch_size, count - len(strings)))
        return strings

    @torch.no_grad()
    def evaluate(self, smiles: Sequence[str], active_variance: float) -> dict[str, float]:
        """Compute its two terms on held-out molecules, nats per molecule, and its active latent units.

        It gives the reconstruction as a mean over characters and the end of each molecule; here it is their sum.
        """
        self.model.eval()
        totals, means = torch.zeros(2, dtype=torch.float64), []
        hook = self.model.q_mu.register_forward_hook(lambda layer, inputs, mu: means.append(mu))
        for start in range(0, len(smiles), self.config.n_batch):
            batch = list(smiles[start : start + self.config.n_batch])
            kl, reconstruction = self.model(self._collate(batch))
            n_characters = sum(len(text) + 1 for text in batch)
            totals += torch.tensor([reconstruction.item() * n_characters, kl.item() * len(batch)])
        hook.remove()
        reconstruction, kl = (totals / len(smiles)).tolist()
        active = int((torch.cat(means).var(0, unbiased=False) > active_variance).sum())
        return {"valid_reconstruction_nats": reconstruction, "valid_kl_nats": kl, "active_units": active}

    def _collate(self, smiles: list[str]) -> tuple[torch.Tensor, ...]:
        """Make a batch as its trainer does: longest first, a tensor a molecule."""
        tensors = [self.model.string2tensor(text) for text in sorted(smiles, key=len, reverse=True)]
        return tuple(tensor.to(self.model.device) for tensor in tensors)

    def _iter_parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.model.vae.parameters() if parameter.requires_grad)
