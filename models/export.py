"""A trained network as a folder to take home: weights, what rebuilds them, an ONNX file, a page that says what it is.

FOLDER/
    model.safetensors    weights, and the two factors that make numbers of pixels
    config.json          the network, its classes, where it comes from, how good it is, SHA-256 of the others
    model.onnx           the same for other programs: bytes in, probabilities out
    README.md            for people

Nothing of it is executed by reading it (https://github.com/huggingface/safetensors).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from models.build import build
from models.cnn import Network
from models.config import Impossible, ModelConfig

WEIGHTS, CONFIG, ONNX, PAGE = "model.safetensors", "config.json", "model.onnx", "README.md"

#: Of the operators in the ONNX file: the first one that torch's exporter writes without converting; since 2022 in every
#: runtime (https://onnx.ai/onnx/repo-docs/Versioning.html).
OPSET: Final = 18

#: How far a probability of the ONNX file may be from PyTorch's: float32 adds in another order there.
TOLERANCE: Final = 1e-4


class NoModel(Exception):
    """A folder holds no model, or not a whole and unchanged one; the message says what is wrong."""


class Card(BaseModel):
    """What config.json says: all that rebuilds the network, and what there is to know about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    network: ModelConfig
    image_size: Annotated[int, Field(ge=4)]
    """Side in pixels of the images that it takes."""
    classes: tuple[str, ...]
    """In the order of the probabilities."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green and blue over the training images, in [0, 1]."""
    parameters: int
    macs: int
    training: Mapping[str, Any]
    """How it was trained: every key of the study file's [space], epochs, seed."""
    provenance: Mapping[str, Any]
    """Study, trial, question, fingerprint of the images, versions, date."""
    verdict: Mapping[str, Any] | None
    """How good it is on test images, if that was asked (`search.analysis.test_results`)."""
    sha256: Mapping[str, str] = {}
    """Of the other files that programs read."""


class Deployed(nn.Module):
    """A trained network as it is used: (N, side, side, 3) uint8 RGB becomes (N, classes) float32 probabilities.

    `factor` and `shift`, (3,) float32 each, make of a byte what the network was trained on.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, network: Network, *, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() * self.factor + self.shift).permute(0, 3, 1, 2)
        return torch.softmax(self.network(normalised), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A model folder, read back."""

    model: Deployed
    card: Card


def write(folder: Path, model: Deployed, card: Card, *, page: str, images: Tensor) -> tuple[Card, float]:
    """Write the whole folder at once: it is there complete, or not at all. An older model there is replaced.

    `images`, (N, side, side, 3) uint8: real ones, on which the ONNX file must say what PyTorch says. Returns the card
    with the hashes of the other files, and by how much the probabilities differ at the most.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the ONNX file says something else.
    """
    folder = folder.resolve()
    if not _may_be_replaced(folder):
        raise FileExistsError(f"{folder} is there already, and holds more than a model; name another one")
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_weights(aside / WEIGHTS, model)
        write_onnx(aside / ONNX, model, card)
        apart = disagreement(aside / ONNX, model, images)
        sums = {name: _sha256(aside / name) for name in (WEIGHTS, ONNX)}
        card = card.model_copy(update={"sha256": sums})
        told = json.dumps(card.model_dump(mode="json", by_alias=True), indent=2)
        (aside / CONFIG).write_text(told + "\n", encoding="utf-8")
        (aside / PAGE).write_text(page, encoding="utf-8")
        _put(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return card, apart


def read(folder: Path) -> Package:
    """The model in a folder, ready to be used on the CPU, its weights checked.

    Raises NoModel.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    card = _card(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise NoModel(f"{folder / WEIGHTS}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != card.sha256.get(WEIGHTS):
        raise NoModel(f"{folder / WEIGHTS} is not the file that {CONFIG} was written with; export the model again")
    try:
        network = build(card.network, image_size=card.image_size, classes=len(card.classes))
    except Impossible as error:
        raise NoModel(f"{folder / CONFIG}: no network can be so: {error}") from error
    model = Deployed(network, factor=torch.zeros(3), shift=torch.zeros(3))
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise NoModel(f"{folder / WEIGHTS} does not fit its {CONFIG}: {error}") from error
    return Package(model=model.eval(), card=card)


def write_onnx(path: Path, model: Deployed, card: Card) -> None:
    """Write the ONNX file: `images`, (N, side, side, 3) uint8, to `probabilities`, (N, classes) float32; any N.

    Its metadata hold the names of the classes.
    """
    import onnx

    example = torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        model.eval(),
        (example,),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    found = program.model_proto
    onnx.helper.set_model_props(found, {"classes": json.dumps(card.classes)})
    onnx.checker.check_model(found, full_check=True)
    onnx.save(found, path)


def disagreement(path: Path, model: Deployed, images: Tensor) -> float:
    """How far the probabilities of the ONNX file and of PyTorch are apart at the most, on (N, side, side, 3) images.

    Raises ValueError where that is more than TOLERANCE, or an image is predicted as another class.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    apart, differently = 0.0, 0
    for some in torch.split(images, 100):
        ours = probabilities(model, some)
        theirs = torch.from_numpy(session.run(["probabilities"], {"images": some.numpy()})[0])
        apart = max(apart, float((ours - theirs).abs().max()))
        best = ours.max(dim=1).values  # of two classes that are as likely, rounding may name either
        differently += int((best - ours.gather(1, theirs.argmax(dim=1, keepdim=True))[:, 0] > TOLERANCE).sum())
    if apart > TOLERANCE or differently:
        raise ValueError(
            f"the ONNX file takes {differently} of {len(images)} images for another class than PyTorch does, and its "
            f"probabilities are up to {apart:.2g} away; at most {TOLERANCE:g} is rounding"
        )
    return apart


@torch.inference_mode()
def probabilities(model: Deployed, images: Tensor) -> Tensor:
    """(N, side, side, 3) uint8 images to (N, classes) probabilities."""
    found: Tensor = model.eval()(images)
    return found


def _may_be_replaced(folder: Path) -> bool:
    """Whether nothing is there, or an empty folder, or a model and nothing else."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return names <= {WEIGHTS, CONFIG, ONNX, PAGE} and (not names or CONFIG in names)


def _put(new: Path, folder: Path) -> None:
    """Rename a folder to where another one may be, which is removed."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _card(folder: Path) -> Card:
    try:
        return Card.model_validate_json((folder / CONFIG).read_bytes())
    except OSError as error:
        raise NoModel(f"{folder} is no model folder: {CONFIG}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NoModel(f"{folder / CONFIG}: {place}: {first['msg']}") from error


def _write_weights(path: Path, model: Deployed) -> None:
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
