"""Export of a trained network as a folder: weights, configuration, an ONNX file and a description.

FOLDER/
    model.safetensors    weights, and the factor and shift that normalise pixels
    config.json          network, classes, provenance, test results, SHA-256 of the other files
    model.onnx           the network for other programs: bytes in, probabilities out
    README.md            description for people

Reading the folder executes no code from it (https://github.com/huggingface/safetensors).
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import torch.fx.config
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from models.build import build
from models.cnn import Network
from models.config import Impossible, ModelConfig, TestTimeAugmentation
from models.libraries import load_onnxruntime, no_compiled_code
from models.test_time import plain_and_averaged

WEIGHTS, CONFIG, ONNX, PAGE = "model.safetensors", "config.json", "model.onnx", "README.md"

#: Version of the ONNX operators: the lowest that torch's exporter writes without conversion; supported by every runtime
#: since 2022 (https://onnx.ai/onnx/repo-docs/Versioning.html).
OPSET: Final = 18

#: Maximum difference of a probability between the ONNX file and PyTorch: float32 sums are in another order.
TOLERANCE: Final = 1e-4


class NoModel(Exception):
    """A folder has no complete and unchanged model; the message names the reason."""


class Card(BaseModel):
    """The content of config.json: everything needed to rebuild the network, and a description of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    network: ModelConfig
    image_size: Annotated[int, Field(ge=4)]
    """Side of the input images in pixels."""
    fit: Literal["crop", "pad", "squash"] = "crop"
    """How an image becomes square before it is scaled (`data.preprocessing`)."""
    depth: tuple[float, float] | None = None
    """The values of 16-bit and float images that become 0 and 255; None: the upper byte of 16 bits."""
    classes: tuple[str, ...]
    """In the order of the probabilities."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green and blue over the training images, in [0, 1]."""
    parameters: int
    macs: int
    training: Mapping[str, Any]
    """Training configuration: every key of [space] in the study file, epochs, seed."""
    test_time_augmentation: TestTimeAugmentation = "none"
    """The copies of an image over which the model averages its predictions."""
    provenance: Mapping[str, Any]
    """Study, trial, question, fingerprint of the images, versions, date."""
    verdict: Mapping[str, Any] | None
    """Results on the test images, if they were evaluated (`search.analysis.test_results`)."""
    sha256: Mapping[str, str] = {}
    """Hashes of the other files that programs read."""


class Deployed(nn.Module):
    """A trained network for inference: maps (N, side, side, 3) uint8 RGB to (N, classes) float32 probabilities.

    `factor` and `shift`, (3,) float32 each, normalise bytes as in training. Logits are averaged over the copies of an
    image that `test_time_augmentation` names.
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self,
        network: Network,
        *,
        factor: Tensor,
        shift: Tensor,
        test_time_augmentation: TestTimeAugmentation = "none",
    ) -> None:
        super().__init__()
        self.network = network
        self.test_time_augmentation = test_time_augmentation
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() * self.factor + self.shift).permute(0, 3, 1, 2)
        _, logits = plain_and_averaged(self.network, normalised, self.test_time_augmentation)
        return torch.softmax(logits, dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """The content of a model folder."""

    model: Deployed
    card: Card


def write(folder: Path, model: Deployed, card: Card, *, page: str, images: Tensor) -> tuple[Card, float]:
    """Write a model folder, either completely or not at all. Replaces an older model.

    Args:
        folder: the target.
        model: the network.
        card: the content of config.json without hashes.
        page: the content of README.md.
        images: (N, side, side, 3) uint8 real images, to compare the ONNX file with PyTorch.

    Returns:
        The card with the hashes of the other files, and the maximum difference of the probabilities.

    Raises:
        FileExistsError: the folder has other content.
        ValueError: the ONNX file disagrees with PyTorch.
    """
    folder = folder.resolve()
    if not _may_be_replaced(folder):
        raise FileExistsError(f"{folder} is there already, and holds more than a model; name another one")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_weights(temporary / WEIGHTS, model)
        write_onnx(temporary / ONNX, model, card)
        difference = disagreement(temporary / ONNX, model, images)
        hashes = {name: _sha256(temporary / name) for name in (WEIGHTS, ONNX)}
        card = card.model_copy(update={"sha256": hashes})
        config_json = json.dumps(card.model_dump(mode="json", by_alias=True), indent=2)
        (temporary / CONFIG).write_text(config_json + "\n", encoding="utf-8")
        (temporary / PAGE).write_text(page, encoding="utf-8")
        _put(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card, difference


def read(folder: Path, *, test_time_augmentation: TestTimeAugmentation | None = None) -> Package:
    """Read a model folder.

    Args:
        folder: the model folder.
        test_time_augmentation: replaces that of the folder; None keeps it.

    Returns:
        The model, in evaluation mode on the CPU, and its card. The hash of the weights is checked.

    Raises:
        NoModel: the folder has no complete and unchanged model.
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
        raise NoModel(f"{folder / CONFIG}: no network has this configuration: {error}") from error
    model = Deployed(
        network,
        factor=torch.zeros(3),
        shift=torch.zeros(3),
        test_time_augmentation=test_time_augmentation or card.test_time_augmentation,
    )
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise NoModel(f"{folder / WEIGHTS} does not fit its {CONFIG}: {error}") from error
    return Package(model=model.eval(), card=card)


def write_onnx(path: Path, model: Deployed, card: Card) -> None:
    """Write the ONNX file: it maps `images`, (N, side, side, 3) uint8, to `probabilities`, (N, classes) float32; any N.

    Its metadata contain the names of the classes.
    """
    import onnx

    example = torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)
    with _without_stack_traces(), no_compiled_code():
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
    onnx_model = program.model_proto
    onnx.helper.set_model_props(onnx_model, {"classes": json.dumps(card.classes)})
    onnx.checker.check_model(onnx_model, full_check=True)
    onnx.save(onnx_model, path)


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Let torch record no stack traces: the file would contain paths of this machine, and recording takes seconds."""
    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def disagreement(path: Path, model: Deployed, images: Tensor) -> float:
    """Compare the ONNX file with PyTorch.

    Args:
        path: the ONNX file.
        model: the same network in PyTorch.
        images: (N, side, side, 3) uint8.

    Returns:
        The maximum difference of the probabilities.

    Raises:
        ValueError: the difference exceeds TOLERANCE, or an image is predicted as another class.
    """
    session = load_onnxruntime().InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    difference, mismatches = 0.0, 0
    for batch in torch.split(images, 100):
        expected = probabilities(model, batch)
        actual = torch.from_numpy(session.run(["probabilities"], {"images": batch.numpy()})[0])
        difference = max(difference, float((expected - actual).abs().max()))
        best = expected.max(dim=1).values  # rounding may pick either of two equally likely classes
        mismatches += int((best - expected.gather(1, actual.argmax(dim=1, keepdim=True))[:, 0] > TOLERANCE).sum())
    if difference > TOLERANCE or mismatches:
        raise ValueError(
            f"the ONNX file classifies {mismatches} of {len(images)} images differently from PyTorch, and its "
            f"probabilities differ by up to {difference:.2g}; at most {TOLERANCE:g} is rounding"
        )
    return difference


@torch.inference_mode()
def probabilities(model: Deployed, images: Tensor) -> Tensor:
    """Map (N, side, side, 3) uint8 images to (N, classes) probabilities."""
    result: Tensor = model.eval()(images)
    return result


def _may_be_replaced(folder: Path) -> bool:
    """Whether the folder is missing, is empty, or has a model and nothing else."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return names <= {WEIGHTS, CONFIG, ONNX, PAGE} and (not names or CONFIG in names)


def _put(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`, and remove an existing `folder`."""
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
        raise NoModel(f"{folder} is not a model folder: {CONFIG}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise NoModel(f"{folder / CONFIG}: {key}: {first['msg']}") from error


def _write_weights(path: Path, model: Deployed) -> None:
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
