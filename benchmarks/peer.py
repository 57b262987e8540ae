"""The other side: the MOSES VAE out of the `molsets` 0.3.1 wheel, its own code, defaults and vocabulary.

pip brings the wheel when it is first asked for; it lies where the pipeline keeps it, and Python imports from it as it
is. Only what the VAE needs is imported: the package's own `__init__` asks for libraries that no longer install.
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

from molvae.stages.fetch import moses_wheel

DOWNLOADS = Path(__file__).parent.parent / "results/datasets/downloads"  # where `data.source: moses` has it, too


def wheel() -> Path:
    """The wheel, its checksum tested."""
    return moses_wheel(DOWNLOADS)


@cache
def moses() -> SimpleNamespace:
    """Its modules that the VAE is made of: model, config, misc, utils."""
    _without_init(str(wheel()), "moses", "moses.vae")
    names = {"model": "moses.vae.model", "config": "moses.vae.config", "misc": "moses.vae.misc", "utils": "moses.utils"}
    modules = SimpleNamespace(**{short: importlib.import_module(name) for short, name in names.items()})
    # `sample` keeps its masks as uint8, which torch no longer assigns through; bool is what it made of them
    modules.model.torch = SimpleNamespace(**{**vars(torch), "uint8": torch.bool})
    return modules


def moses_metrics(folder: Path) -> ModuleType:
    """Its module with `get_all_metrics`; the wheel is unpacked into `folder`, since it reads its data beside its code.

    Patched at run time where it no longer imports: `rdkit.six` and `DataFrame.append` are gone.
    """
    import pandas as pd

    with zipfile.ZipFile(wheel()) as archive:
        archive.extractall(folder)
    six, moves = ModuleType("rdkit.six"), ModuleType("rdkit.six.moves")
    six.iteritems, six.moves, moves.cPickle, moves.xrange = lambda found: iter(found.items()), moves, pickle, range
    sys.modules.update({"rdkit.six": six, "rdkit.six.moves": moves})
    pd.DataFrame.append = lambda table, other, **more: pd.concat([table, other], **more)
    _without_init(str(folder), "moses", "moses.metrics")
    return importlib.import_module("moses.metrics.metrics")


def _without_init(source: str, *packages: str) -> None:
    """Make packages importable from a folder or a wheel without running their `__init__`, which asks for more."""
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
        """`sizes` are options of its own parser that are not to be the defaults."""
        options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
        self.config = moses().config.get_parser().parse_args(options)
        torch.manual_seed(seed)
        self.model = moses().model.VAE(moses().utils.OneHotVocab.from_data(smiles), self.config)
        self.optimizer = torch.optim.Adam(self._parameters(), lr=self.config.lr_start)

    def step(self, smiles: list[str], kl_weight: float) -> tuple[float, float]:
        """One update as in its trainer, collating included; returns its KL and reconstruction terms."""
        self.model.train()
        kl, reconstruction = self.model(self._tensors(smiles))
        loss = kl_weight * kl + reconstruction
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters(), self.config.clip_grad)
        self.optimizer.step()
        values = kl.item(), reconstruction.item()
        loss.item()  # its trainer waits for all three
        return values

    def sample(self, count: int, batch: int) -> list[str]:
        """So many strings by its own sampler, so many at a time."""
        self.model.eval()
        strings: list[str] = []
        while len(strings) < count:
            strings += self.model.sample(min(batch, count - len(strings)))
        return strings

    @torch.no_grad()
    def evaluate(self, smiles: Sequence[str], active_variance: float) -> dict[str, float]:
        """Its two terms on held-out molecules, nats per molecule, and its active latent units.

        It gives the reconstruction as a mean over characters and the end of each molecule; here it is their sum.
        """
        self.model.eval()
        totals, means = torch.zeros(2, dtype=torch.float64), []
        hook = self.model.q_mu.register_forward_hook(lambda layer, inputs, mu: means.append(mu))
        for start in range(0, len(smiles), self.config.n_batch):
            some = list(smiles[start : start + self.config.n_batch])
            kl, reconstruction = self.model(self._tensors(some))
            totals += torch.tensor([reconstruction.item() * sum(len(one) + 1 for one in some), kl.item() * len(some)])
        hook.remove()
        reconstruction, kl = (totals / len(smiles)).tolist()
        active = int((torch.cat(means).var(0, unbiased=False) > active_variance).sum())
        return {"valid_reconstruction_nats": reconstruction, "valid_kl_nats": kl, "active_units": active}

    def _tensors(self, smiles: list[str]) -> tuple[torch.Tensor, ...]:
        """A batch as its trainer collates it: longest first, a tensor a molecule."""
        tensors = [self.model.string2tensor(one) for one in sorted(smiles, key=len, reverse=True)]
        return tuple(tensor.to(self.model.device) for tensor in tensors)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.model.vae.parameters() if parameter.requires_grad)
