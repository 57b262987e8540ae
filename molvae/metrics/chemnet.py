"""ChemNet, the network behind the Fréchet distance, in three quarters of the time on a CPU.

Source: Preuer et al. 2018 (doi:10.1021/acs.jcim.8b00234). Weights and encoding are those of `fcd_torch`: two
convolutions without bias over 350 characters (four to a step), an LSTM of 128 that reads from the last step to the
first, and an LSTM of 512 that reads the other way; its last state is the result. A SMILES fills a tenth of it all.
Over the rest the convolutions give zeros, so the first LSTM is in the same state for all molecules when it comes to
their last character, and what the second one then reads is the same for all, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MAX_CHARACTERS = 350  # characters
N_STEPS = 88  # of the LSTMs
BATCH_SIZE = 1024
MARGIN_CHARACTERS = 8  # characters of padding that the convolutions must see


def compute_activations(smiles: Sequence[str], *, device: str = "cpu") -> np.ndarray:
    """Compute the last hidden layer for canonical SMILES, (n, 512) float32, rows as in the input; each text once."""
    distinct, places = np.unique(np.array(smiles, dtype=object), return_inverse=True)
    order = np.argsort(np.fromiter(map(len, distinct), int, len(distinct)), kind="stable")
    activations = np.empty((len(distinct), 512), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(distinct), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            activations[batch] = _compute_batch(distinct[batch].tolist(), device)
    return activations[places]


def _compute_batch(smiles: list[str], device: str) -> np.ndarray:
    from fcd_torch.utils import get_one_hot

    longest = min(max(map(len, smiles)) + 1, MAX_CHARACTERS)
    filled = -(-(longest + MARGIN_CHARACTERS) // 4)  # steps
    short = device == "cpu" and 4 * filled < MAX_CHARACTERS
    width = 4 * filled if short else MAX_CHARACTERS
    encoded = np.stack([get_one_hot(text, width) for text in smiles]) / 35.0  # as fcd_torch scales its one-hot
    signal = torch.from_numpy(encoded).float().transpose(1, 2).to(device)
    network = _load_network(device)
    return (_run_shortened(network, signal) if short else network(signal)).cpu().numpy()


def _run_shortened(network: nn.Sequential, signal: Tensor) -> Tensor:
    """Compute `network(signal)` as if the signal were padded to MAX_CHARACTERS."""
    convolutions, (first, second) = network[:7], _get_lstms(network)
    steps = convolutions(signal)  # (batch, filled, 32)
    filled = steps.shape[1]
    states, cells, inputs = _compute_padding(network)
    start = [table[N_STEPS - filled].expand(1, len(steps), -1).contiguous() for table in (states, cells)]
    middle, _ = first(steps.flip(1), tuple(start))
    _, (hidden, cell) = second(middle.flip(1))
    hidden, cell = hidden[0].clone(), cell[0].clone()
    recurrent, gates = second.all_weights[0][1].T, hidden.new_empty(len(hidden), 2048)
    for step in range(filled, N_STEPS):
        torch.addmm(inputs[N_STEPS - step], hidden, recurrent, out=gates)
        entry, forget, new, out = gates.chunk(4, 1)
        cell.mul_(forget.sigmoid_()).addcmul_(entry.sigmoid_(), new.tanh_())
        torch.mul(out.sigmoid_(), torch.tanh(cell, out=new), out=hidden)
    return hidden


def _get_lstms(network: nn.Sequential) -> tuple[nn.LSTM, nn.LSTM]:
    first, second = network[8], network[11]
    assert isinstance(first, nn.LSTM) and isinstance(second, nn.LSTM)
    return first, second


@cache
def _compute_padding(network: nn.Sequential) -> tuple[Tensor, Tensor, Tensor]:
    """Of the first LSTM after 0, 1, … steps of padding: state, cell, and what it means to the gates of the second."""
    first, second = _get_lstms(network)
    states = [(torch.zeros(1, 1, 128), torch.zeros(1, 1, 128))]
    for _ in range(N_STEPS):
        states.append(first(torch.zeros(1, 1, 32), states[-1])[1])
    hidden, cells = (torch.cat(parts)[:, 0] for parts in zip(*states, strict=True))
    input_weight, _, input_bias, recurrent_bias = second.all_weights[0]
    return hidden, cells, hidden @ input_weight.T + input_bias + recurrent_bias


@cache
def _load_network(device: str) -> nn.Sequential:
    import fcd_torch
    from fcd_torch.utils import load_imported_model

    path = Path(fcd_torch.__file__).with_name("ChemNet_v0.13_pretrained.pt")
    return load_imported_model(torch.load(path, weights_only=True)).eval().to(device)
