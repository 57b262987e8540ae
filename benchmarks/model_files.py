"""Damaged and hostile model folders: is each refused with one clear message, or does it give the same samples?"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import make_parser, write_result
from safetensors.torch import load_file, save_file

import molvae
from molvae.chemistry.selfies_codec import build_constraints, encode_smiles
from molvae.chemistry.tokenization import tokenize
from molvae.config import FeaturizeSettings, ModelSettings
from molvae.data.vocabulary import Vocabulary
from molvae.errors import MolvaeError
from molvae.model_io.card import CARD_FILE, WEIGHTS_FILE, make_checksums
from molvae.model_io.folder import PRIOR_CARD_FILE, PRIOR_WEIGHTS_FILE, save_model, save_prior
from molvae.model_io.pretrained import list_pretrained, resolve_model_folder
from molvae.nn.priors import build_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import compute_sha256

SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "CN1CCCC1c1cccnc1", "O=S(=O)(Nc1ccccn1)c1ccccc1", "C[N+](=O)[O-]", "F/C=C/Cl")
N_SAMPLES = 20
MEMORY = 2 << 30  # bytes of address space that a child may take besides what it begins with
MAX_GROWTH_MB, MAX_SECONDS = 600, 120
WEIGHTS, CARDS = (WEIGHTS_FILE, PRIOR_WEIGHTS_FILE), (CARD_FILE, PRIOR_CARD_FILE)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**6, 10**12, 10**400, 0.5, -1e308, math.nan, math.inf),
    *("", "x", "C" * 10**5, "\x00", "\ud800", "../../../etc/passwd", "[C", "$(id)", "<b>"),
    *([], {}, [[]], [None], {"": {}}, [1, 2], {"a": "b"}, ["a"] * 10**5),
)
Random = np.random.Generator
Fault = Callable[[Path, Random], None]


# faults: each changes the copy of a model folder


def choose_file(folder: Path, random: Random, *names: str) -> Path:
    """Choose one of the files of a model folder."""
    files = [folder / name for name in names or (*WEIGHTS, *CARDS) if (folder / name).exists()]
    return files[random.integers(len(files))]


def truncate(folder: Path, random: Random) -> None:
    file = choose_file(folder, random)
    os.truncate(file, random.integers(file.stat().st_size))


def cut_few_bytes(folder: Path, random: Random) -> None:
    file = choose_file(folder, random)
    os.truncate(file, file.stat().st_size - random.integers(1, 17))


def append_bytes(folder: Path, random: Random) -> None:
    with choose_file(folder, random).open("ab") as file:
        file.write(random.bytes(random.integers(1, 5000)))


def clear_block(folder: Path, random: Random) -> None:
    file = choose_file(folder, random)
    with file.open("r+b") as stream:
        stream.seek(random.integers(file.stat().st_size))
        stream.write(bytes(512))


def flip_bit(file: Path, start: int, stop: int, random: Random) -> None:
    """Flip one bit of the bytes from `start` to `stop` of a file."""
    position = int(random.integers(start, stop))
    with file.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1 << int(random.integers(8))]))


def find_data(file: Path) -> int:
    """Find where the tensors begin in a safetensors file."""
    with file.open("rb") as stream:
        return 8 + struct.unpack("<Q", stream.read(8))[0]


def flip_in_header(folder: Path, random: Random) -> None:
    file = choose_file(folder, random, *WEIGHTS)
    flip_bit(file, 0, find_data(file), random)


def flip_in_data(folder: Path, random: Random) -> None:
    file = choose_file(folder, random, *WEIGHTS)
    flip_bit(file, find_data(file), file.stat().st_size, random)


def flip_in_card(folder: Path, random: Random) -> None:
    file = choose_file(folder, random, *CARDS)
    flip_bit(file, 0, file.stat().st_size, random)


def flip_in_description(folder: Path, random: Random) -> None:
    file = folder / CARD_FILE
    start = file.read_bytes().index(b'"versions"')
    flip_bit(file, start, file.stat().st_size, random)


def exchange_files(folder: Path, random: Random) -> None:
    names = [path.name for path in folder.iterdir()]
    first, second = random.choice(names, 2, replace=False)
    (folder / first).rename(folder / "x")
    (folder / second).rename(folder / first)
    (folder / "x").rename(folder / second)


def take_other_weights(folder: Path, random: Random) -> None:
    file = choose_file(folder, random, *WEIGHTS)
    tensors = load_file(file)
    name = sorted(tensors)[random.integers(len(tensors))]
    tensors[name] = tensors[name] + 1 if tensors[name].is_floating_point() else tensors[name]
    tensors[sorted(tensors)[0]] = tensors[sorted(tensors)[0]] + 1
    save_file(tensors, file)


def edit_vocabulary(folder: Path, random: Random) -> None:
    """Change two symbols, one merge, or one bond constraint."""
    file = folder / CARD_FILE
    card = json.loads(file.read_text())
    vocabulary, kind = card["vocabulary"], random.integers(3)
    if kind == 0:
        symbols = vocabulary["symbols"]
        i, j = random.choice(len(symbols), 2, replace=False)
        symbols[i], symbols[j] = symbols[j], symbols[i]
    elif kind == 1:
        merge = vocabulary["merges"][random.integers(len(vocabulary["merges"]))]
        merge[random.integers(2)] += 1 if merge[0] < 10 else -1
    else:
        name = random.choice(["C", "N", "O", "S"])
        vocabulary["constraints"][name] = [vocabulary["constraints"][name] - 1, 3, True, 8][random.integers(4)]
    file.write_text(json.dumps(card))


def edit_card(folder: Path, random: Random) -> None:
    """Put an odd value in the place of any value of a card."""
    file = choose_file(folder, random, *CARDS)
    card = json.loads(file.read_text())
    place, key = choose_place(card, random)
    place[key] = ODD_VALUES[random.integers(len(ODD_VALUES))]
    file.write_text(json.dumps(card))


def remove_from_card(folder: Path, random: Random) -> None:
    """Remove any value of a card."""
    file = choose_file(folder, random, *CARDS)
    card = json.loads(file.read_text())
    place, key = choose_place(card, random)
    del place[key]
    file.write_text(json.dumps(card))


def choose_place(card: dict[str, Any], random: Random) -> tuple[Any, Any]:
    """Choose a value of a card but its checksums, each branch of the tree as likely as the next: its parent and key."""
    place: Any = card
    while True:
        keys = range(len(place)) if isinstance(place, list) else sorted(set(place) - {"checksums"})
        key = keys[random.integers(len(keys))]
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.2:
            return place, key
        place = place[key]


def change_version(folder: Path, random: Random) -> None:
    file = choose_file(folder, random, *CARDS)
    card = json.loads(file.read_text())
    versions = [None, 0, 1, 2, 4, "3", True, 3.5, [3], {"3": 3}, 10**400, "9" * 10**6]
    (card if random.random() < 0.7 else card.get("vocabulary", card))["format_version"] = versions[
        random.integers(len(versions))
    ]
    file.write_text(json.dumps(card))


def reshape(folder: Path, random: Random) -> None:
    """Give a tensor another shape, another name, or leave it out."""
    file = choose_file(folder, random, *WEIGHTS)
    tensors = load_file(file)
    name, kind = sorted(tensors)[random.integers(len(tensors))], random.integers(5)
    tensor = tensors.pop(name)
    if kind == 0:
        tensors[name] = tensor.flatten()[:-1].contiguous()
    elif kind == 1:
        tensors[name] = tensor[None].contiguous()
    elif kind == 2:
        tensors[f"{name}x"] = tensor
    elif kind == 3:
        tensors[name] = torch.zeros((0, *tensor.shape))
    save_file(tensors, file)


def retype(folder: Path, random: Random) -> None:
    """Write a tensor in another type."""
    types = (torch.float64, torch.int64, torch.int8, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn)
    file = choose_file(folder, random, *WEIGHTS)
    tensors = load_file(file)
    name = sorted(tensors)[random.integers(len(tensors))]
    tensors[name] = tensors[name].to(types[random.integers(len(types))])
    save_file(tensors, file)


def spoil_numbers(folder: Path, random: Random) -> None:
    """Put NaN, infinity, or the largest number into a tensor."""
    file = choose_file(folder, random, *WEIGHTS)
    tensors = load_file(file)
    name = sorted(tensors)[random.integers(len(tensors))]
    flat = tensors[name].flatten()
    value = (math.nan, math.inf, -math.inf)[random.integers(3)] if flat.is_floating_point() else -1
    flat[random.integers(len(flat))] = value
    tensors[name] = flat.reshape(tensors[name].shape)
    save_file(tensors, file)


def enlarge_numbers(folder: Path, random: Random) -> None:
    """Make a tensor as large as its type allows: finite numbers whose products are not."""
    file = choose_file(folder, random, *WEIGHTS)
    tensors = load_file(file)
    floating = sorted(name for name in tensors if tensors[name].is_floating_point())
    name = floating[random.integers(len(floating))]
    tensors[name] = torch.full_like(tensors[name], torch.finfo(tensors[name].dtype).max)
    save_file(tensors, file)


def claim_size(folder: Path, random: Random) -> None:
    """Claim 100 GB in the length of the header, in the offsets of a tensor, or by a sparse file."""
    file, kind = choose_file(folder, random, *WEIGHTS), random.integers(5)
    content, start = file.read_bytes(), find_data(file)
    size = int(100e9 * (0.5 + random.random()))
    if kind == 0:
        file.write_bytes(struct.pack("<Q", size) + content[8:])
    elif kind == 1:
        header = json.loads(content[8:start])
        name = next(name for name in header if name != "__metadata__")
        header[name].update(shape=[size // 4], data_offsets=[0, size // 4 * 4])
        write_header(file, header, content[start:])
    elif kind == 2:
        header = {
            "encoder.embedding.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size // 4 * 4]}
        }
        write_header(file, header, b"")
        os.truncate(file, find_data(file) + size // 4 * 4)
    elif kind == 3:
        os.truncate(file, size)
    else:  # a header of 8 or 17 MB; the format allows 100
        n = int(random.choice([120_000, 250_000]))
        header = {f"a{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(n)}
        write_header(file, header, b"")


def write_header(file: Path, header: dict[str, Any], data: bytes) -> None:
    """Write a safetensors file of a header and bytes that need not fit it."""
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def claim_networks(folder: Path, random: Random) -> None:
    """Claim the largest networks that the settings allow, with or without a sparse file of weights that fits them."""
    file = folder / CARD_FILE
    card = json.loads(file.read_text())
    card["settings"]["model"].update(decoder_hidden=8192, decoder_layers=4, encoder_hidden=8192, latent_dim=4096)
    (folder / PRIOR_CARD_FILE).unlink(missing_ok=True)
    if random.random() < 0.5:
        with torch.device("meta"):
            settings = ModelSettings(**card["settings"]["model"])
            network = VAE(len(Vocabulary.from_json(card["vocabulary"], "")), settings, [])
        card.pop("properties", None)
        header, end = {}, 0
        for name, tensor in network.state_dict().items():
            offsets = [end, end + tensor.nbytes]
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
            end = offsets[1]
        write_header(folder / WEIGHTS_FILE, header, b"")
        os.truncate(folder / WEIGHTS_FILE, find_data(folder / WEIGHTS_FILE) + end)
        card.pop("checksums", None)  # of gigabytes: they are not computed
    file.write_text(json.dumps(card))


def nest(folder: Path, random: Random) -> None:
    """Nest lists or dictionaries, the whole card or a value of it."""
    file, depth = choose_file(folder, random, *CARDS), int(random.choice([100, 900, 990, 5000, 10**6]))
    opening, closing = [("[", "]"), ('{"a":', "}")][random.integers(2)]
    nested = opening * depth + "1" + closing * depth
    if random.random() < 0.3:
        file.write_text(nested)
    else:
        card = json.loads(file.read_text())
        card["x" if random.random() < 0.5 else "settings"] = "HERE"
        file.write_text(json.dumps(card).replace('"HERE"', nested))


def write_large_card(folder: Path, random: Random) -> None:
    """Write a card whose objects take far more memory than its text."""
    file, size = choose_file(folder, random, *CARDS), int(random.choice([1, 9, 49, 200])) * 10**6
    item = ["{},", "[],", "0.5,", '"",'][random.integers(4)]
    card = json.loads(file.read_text())
    card["x"] = "HERE"
    file.write_text(json.dumps(card).replace('"HERE"', "[" + item * (size // len(item)) + "0]"))


def double_merges(folder: Path, random: Random) -> None:
    """Let each merge stand for two of the one before it, or make many merges as long as is allowed."""
    file = folder / CARD_FILE
    card = json.loads(file.read_text())
    first = 4 + len(card["vocabulary"]["symbols"])
    merges = [[4, 4], *([k, k] for k in range(first, first + int(random.integers(5, 60))))]
    if random.random() < 0.5:
        merges = [*merges[:12], *([first + 10, first + 10] for _ in range(100_000))]
    card["vocabulary"]["merges"] = merges
    file.write_text(json.dumps(card))


def replace_by_device(folder: Path, random: Random) -> None:
    """Put a link to an endless device, a pipe, a link to itself, a folder, or nothing in the place of a file."""
    file, kind = choose_file(folder, random), random.integers(9)
    content = file.read_bytes()
    file.unlink()
    if kind < 3:
        file.symlink_to(("/dev/zero", "/dev/urandom", "/dev/full")[kind])
    elif kind == 3:
        os.mkfifo(file)
    elif kind == 4:
        file.symlink_to(file.name)
    elif kind == 5:
        file.symlink_to("nowhere")
    elif kind == 6:
        file.mkdir()
    elif kind == 7:
        file.write_bytes(b"")
    else:  # the same bytes behind a link are no fault
        (folder / "linked").write_bytes(content)
        file.symlink_to("linked")


def remove_file(folder: Path, random: Random) -> None:
    choose_file(folder, random).unlink()


def sign(folder: Path) -> None:
    """Make the checksums of a folder anew, as whoever changes it on purpose can."""
    for card_file, weights_file in zip((CARD_FILE, PRIOR_CARD_FILE), WEIGHTS, strict=True):
        try:
            card = json.loads((folder / card_file).read_text())
            if not isinstance(card, dict) or "checksums" not in card:
                continue
            if max((folder / name).stat().st_size for name in {WEIGHTS_FILE, weights_file}) > 10**9:
                del card["checksums"]  # it would take minutes to make them
            else:
                if card_file == PRIOR_CARD_FILE and "weights_sha256" in card:
                    card["weights_sha256"] = compute_sha256(folder / WEIGHTS_FILE)
                card["checksums"] = make_checksums(card, folder / weights_file)
            (folder / card_file).write_text(json.dumps(card))
        except (OSError, ValueError, RecursionError):
            continue


# fault in plain words -> what it does, whether the checksums are made anew afterwards, folders tried in a full run
FAULTS: dict[str, tuple[Fault, bool, int]] = {
    "file truncated at a random place": (truncate, False, 60),
    "last bytes of a file missing": (cut_few_bytes, False, 36),
    "bytes behind the end of a file": (append_bytes, False, 24),
    "512 bytes of a file zero": (clear_block, False, 36),
    "bit flipped in the header of weights": (flip_in_header, False, 96),
    "bit flipped in the data of weights": (flip_in_data, False, 96),
    "bit flipped in a card": (flip_in_card, False, 144),
    "bit flipped in the description in a card": (flip_in_description, False, 48),
    "two files exchanged": (exchange_files, False, 12),
    "weights of another training": (take_other_weights, False, 12),
    "symbols, a merge or a bond constraint changed": (edit_vocabulary, False, 48),
    "value of a card changed": (edit_card, False, 48),
    "other format version": (change_version, False, 24),
    "other shape or name of a tensor": (reshape, False, 24),
    "other type of a tensor": (retype, False, 24),
    "file missing": (remove_file, False, 10),
    "link, pipe, device or folder in place of a file": (replace_by_device, False, 36),
    "100 GB claimed by weights": (claim_size, False, 18),
    "NaN or infinity in weights": (spoil_numbers, False, 12),
    "forged: symbols, a merge or a bond constraint changed": (edit_vocabulary, True, 24),
    "forged: value of a card changed": (edit_card, True, 180),
    "forged: value of a card missing": (remove_from_card, True, 48),
    "forged: other format version": (change_version, True, 24),
    "forged: other shape or name of a tensor": (reshape, True, 24),
    "forged: other type of a tensor": (retype, True, 24),
    "forged: NaN or infinity in weights": (spoil_numbers, True, 36),
    "forged: largest numbers in weights": (enlarge_numbers, True, 24),
    "forged: 100 GB claimed by weights": (claim_size, True, 18),
    "forged: largest networks claimed by a card": (claim_networks, True, 10),
    "forged: nested card": (nest, True, 24),
    "forged: large card": (write_large_card, True, 18),
    "forged: merges that double": (double_merges, True, 12),
}


# trying a folder, in a child with little memory


def try_folder(folder: Path) -> dict[str, Any]:
    """Load, sample and encode in a child process: what it gave, its seconds and how much its memory grew."""
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _work(folder, writing)
    os.close(writing)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(MAX_SECONDS)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    signal.alarm(0)
    if answer:
        return json.loads(answer)
    seconds = time.monotonic() - began
    name = "hung" if seconds > MAX_SECONDS - 1 else f"killed, status {status}"
    return {"outcome": name, "detail": "", "seconds": seconds, "growth_mb": 0}


def use_model(folder: Path) -> str:
    """Load a model, sample, encode and decode: what it gave, as text."""
    model = molvae.load(folder)
    samples = model.sample(N_SAMPLES, seed=7, max_tries=1)
    mu, logvar = model.encode(list(SMILES))
    return repr([samples, mu.tolist(), logvar.tolist(), model.decode(np.nan_to_num(mu))])


def _work(folder: Path, writing: int) -> None:
    """Use a model as a stranger's would be used, and write what happened; never returns."""
    resource.setrlimit(resource.RLIMIT_AS, (_read_status("VmSize") * 1024 + MEMORY,) * 2)
    rss, began = _read_status("VmRSS"), time.monotonic()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    answer: dict[str, Any] = {}
    try:
        answer = {"outcome": "loaded", "detail": use_model(folder)}
    except MolvaeError as err:
        answer = {"outcome": "refused", "detail": str(err)}
    except BaseException as err:  # noqa: BLE001 this is what is looked for
        trace = traceback.format_exc(limit=-3)
        answer = {"outcome": f"crashed with {type(err).__name__}", "detail": trace}
    answer["seconds"] = time.monotonic() - began
    answer["growth_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1024
    with os.fdopen(writing, "wb") as stream:
        stream.write(json.dumps(answer).encode())
    os._exit(0)


def _read_status(name: str) -> int:
    """Read a number of kB of this process from the system."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def judge(answer: dict[str, Any], expected: str, forged: bool) -> tuple[str, bool]:
    """Say in a word what happened, and whether it is wrong."""
    outcome = answer["outcome"]
    if answer["growth_mb"] > MAX_GROWTH_MB:
        return f"{outcome} after {MAX_GROWTH_MB} MB", True
    if outcome == "refused":
        is_clear = len(answer["detail"]) < 2000 and "\n\n" not in answer["detail"]
        return ("refused", False) if is_clear else ("refused with an endless message", True)
    if outcome != "loaded":
        return outcome, True
    if answer["detail"] == expected:
        return "same samples", False
    return ("loaded as another model", False) if forged else ("other samples", True)


def make_small_model(folder: Path) -> Path:
    """Make a model folder of some kB that has all there is: merges, a property head, a fitted prior."""
    symbols = {symbol for smiles in SMILES for symbol in tokenize(encode_smiles(smiles))}
    single = Vocabulary.build(symbols, build_constraints(symbols))
    first = 4 + len(single.symbols)
    vocabulary = Vocabulary(single.symbols, single.constraints, ((4, 5), (first, 6), (7, 8)))
    sizes = ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)
    torch.manual_seed(1)
    network = VAE(len(vocabulary), sizes, ["logp"]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    settings = {"model": sizes.model_dump(), "featurize": {**FeaturizeSettings().model_dump(), "max_tokens": 30}}
    card: Any = {"settings": settings, "metrics": {"epoch": 1}, "versions": {"molvae": "0", "note": "a text " * 30}}
    save_model(folder, network, vocabulary, card)
    prior = build_prior("vamp", 3, network.encoder)
    content = {"settings": {"kind": "vamp", "components": 3}, "weights_sha256": compute_sha256(folder / WEIGHTS_FILE)}
    save_prior(folder, prior, content)
    return folder


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other folders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    torch.manual_seed(0)
    root = Path(tempfile.mkdtemp(prefix="molvae-model-files-"))
    originals = [make_small_model(root / "small")]
    shipped = [resolve_model_folder(f"pretrained:{name}") for name in list_pretrained()]
    originals += [
        Path(shutil.copytree(path, root / path.name, ignore=shutil.ignore_patterns("*.md"))) for path in shipped
    ]
    use_model(originals[0])  # what a first use imports is not to be imported in each child
    expected = {}
    for path in originals:
        answer = try_folder(path)
        assert answer["outcome"] == "loaded", answer
        assert answer["detail"] == try_folder(path)["detail"], "samples differ from one time to the next"
        expected[path.name] = answer["detail"]
    rows, number = [], 0
    for fault, (change, forged, n) in FAULTS.items():
        if arguments.only not in fault:
            continue
        outcomes: Counter[str] = Counter()
        wrong, seconds, growth, examples = 0, 0.0, 0.0, {}
        for k in range(max(1, n // 20) if arguments.quick else n):
            random = np.random.default_rng([arguments.seed, list(FAULTS).index(fault), k])
            original = originals[0 if k % 10 or arguments.quick else 1 + k // 10 % len(shipped)]
            folder = root / "tried"
            shutil.copytree(original, folder)
            change(folder, random)
            if forged:
                sign(folder)
            answer = try_folder(folder)
            name, is_wrong = judge(answer, expected[original.name], forged)
            outcomes[name] += 1
            wrong += is_wrong
            seconds, growth = max(seconds, answer["seconds"]), max(growth, answer["growth_mb"])
            if is_wrong:
                examples.setdefault(name, (original.name, k, answer["detail"][-600:]))
            shutil.rmtree(folder)
            number += 1
        row = {"fault": fault, "tried": outcomes.total(), "outcomes": dict(outcomes), "lost": 0, "wrong": wrong}
        rows.append({**row, "most_seconds": round(seconds, 2), "most_mb": round(growth)})
        print(rows[-1], flush=True)
        for name, example in examples.items():
            print(f"  {name}: {example}", file=sys.stderr, flush=True)
    shutil.rmtree(root)
    wrong = sum(row["wrong"] for row in rows)
    write_result(arguments.json, {"rows": rows, "seed": arguments.seed})
    print(f"{number} folders, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
