"""The MOSES VAE out of an unpacked `molsets` wheel, on a machine that has none of what the wheel needs.

Only moses/vae/model.py, moses/vae/config.py and moses/utils.py are read. What they import for plots and chemistry, none
of which the VAE uses, is replaced by empty modules.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

STUBS = {"pandas": [], "matplotlib": ["pyplot"], "rdkit": ["rdBase", "Chem"]}
KL_WEIGHT = 0.05  # any: the time does not depend on it


class MosesVAE:
    """A new MOSES VAE with its own sizes, and what its trainer and its sampler do."""

    def __init__(self, wheel: Path, smiles: Sequence[str], device: torch.device) -> None:
        """Build the network, whose vocabulary is that of the SMILES."""
        model, config, utils = _import_modules(wheel)
        self.config = config.get_parser().parse_args([])
        torch.manual_seed(0)
        self.model = model.VAE(utils.OneHotVocab.from_data(smiles), self.config).to(device)
        self.parameters = [weight for weight in self.model.vae.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.config.lr_start)

    def collate(self, smiles: Sequence[str]) -> list[Tensor]:
        """Make a batch as its data loader does: longest first, a tensor a molecule, on the CPU.

        Its trainer has a worker process do this meanwhile, so it is not part of an update.
        """
        return [self.model.string2tensor(text, device="cpu") for text in sorted(smiles, key=len, reverse=True)]

    def update(self, batch: list[Tensor]) -> None:
        """Update the weights once as its trainer does."""
        self.model.train()
        kl, reconstruction = self.model(tuple(tensor.to(self.model.device) for tensor in batch))
        loss = KL_WEIGHT * kl + reconstruction
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_grad)
        self.optimizer.step()
        kl.item(), reconstruction.item(), loss.item()  # its trainer waits for all three

    def sample(self, count: int) -> list[str]:
        """Sample so many strings at a time by its own sampler."""
        self.model.eval()
        return self.model.sample(count)


@cache
def _import_modules(wheel: Path) -> list[ModuleType]:
    for name in ("moses", "moses.vae"):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(wheel / name.replace(".", "/"))]  # no __init__ is run
    stubs = {}
    for name, parts in STUBS.items():
        stubs[name] = ModuleType(name)
        for part in parts:
            stubs[f"{name}.{part}"] = ModuleType(f"{name}.{part}")
            setattr(stubs[name], part, stubs[f"{name}.{part}"])
    sys.modules.update(stubs)
    modules = [importlib.import_module(name) for name in ("moses.vae.model", "moses.vae.config", "moses.utils")]
    for name in stubs:  # torch looks for two of these by itself and must not find a stub
        del sys.modules[name]
    # `sample` keeps its masks as uint8, which torch no longer assigns through; bool is what it made of them
    modules[0].torch = SimpleNamespace(**{**vars(torch), "uint8": torch.bool})
    return modules
