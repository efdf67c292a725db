"""Transfer learning: size, frozen stages and verified weight files of pretrained networks."""

import hashlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, get_model

from models.backbone import NoWeights, PretrainedNetwork, fetch, pretrained
from models.build import build
from models.config import BACKBONES, Impossible, ModelConfig, TrainConfig
from models.optim import parameter_groups
from models.plan import check_batch_size, plan
from models.train import Training, start
from search.process import this_process
from search.storage import claims
from search.trial import recorder, runner
from search.trial.trial_training import TrialTraining
from tests.harness import Harness, work
from tests.models.macs import counted_macs

FROZEN_2 = ModelConfig(backbone="resnet18", tuned_stages=3, dense_layers=0)


@pytest.fixture(scope="session")
def state() -> dict[str, Any]:
    """A complete state of a ResNet-18 in the form that torchvision publishes, with random weights."""
    torch.manual_seed(7)
    return dict(get_model("resnet18", weights=None).state_dict())


@pytest.fixture
def source(state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a weight file in torchvision's form; torch's cache is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    path = tmp_path / "published" / f"resnet18-{digest}.pth"
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    return f"file://{path}"


@pytest.mark.parametrize("side", [0, 64], ids=["kept", "enlarged"])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_backbone_has_the_parameters_and_macs_of_its_plan(name: Any, side: int) -> None:
    config = ModelConfig(backbone=name, backbone_side=side, dense_layers=1, dense_units=16)

    planned = plan(config, image_size=32, classes=5)
    model = build(config, image_size=32, classes=5)

    assert sum(parameter.numel() for parameter in model.parameters()) == planned.parameters
    assert counted_macs(model, torch.zeros(1, 3, 32, 32)) == planned.macs
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def start_training(train: TrainConfig, state: dict[str, Any]) -> Training:
    """A training of two batches; the first two stages of its backbone are frozen."""
    return start(FROZEN_2, train, image_size=32, classes=3, total_batches=2, seed=0, device="cpu", weights=state)


def test_frozen_weights_stay_bit_for_bit_and_all_others_change(state: dict[str, Any]) -> None:
    training = start_training(TrainConfig(batch_size=8, learning_rate=0.1), state)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3

    for _ in training.run(lambda first, last: iter([(images, labels)] * (last - first)), [2]):
        pass

    after = training.model.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not {name for name in moved if name.startswith(("stages.0.", "stages.1."))}
    weights = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    assert weights <= moved
    assert "stages.4.1.bn2.running_mean" in moved


def test_the_stages_hold_the_pretrained_weights(state: dict[str, Any]) -> None:
    model = build(FROZEN_2, image_size=32, classes=3, weights=state)

    assert isinstance(model, PretrainedNetwork)
    first, second = model.stages[0], model.stages[1]
    assert isinstance(first, nn.Sequential)
    assert torch.equal(first.state_dict()["0.weight"], state["conv1.weight"])
    assert torch.equal(second.state_dict()["0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_pretrained_weights_learn_at_their_own_rate() -> None:
    model = build(FROZEN_2, image_size=32, classes=3)

    groups = parameter_groups(model, TrainConfig(backbone_rate=0.01, bias_rate=8.0))

    assert [group["rate"] for group in groups] == pytest.approx([1.0, 1.0, 8.0, 0.01, 0.01, 0.08])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(p.numel() for group in groups for p in group["params"]) == trained  # type: ignore[attr-defined]


def test_weights_are_fetched_once_and_their_hash_is_checked(source: str, state: dict[str, Any]) -> None:
    path = fetch("resnet18", url=source)
    Path(source.removeprefix("file://")).unlink()

    weights = pretrained("resnet18", url=source)

    assert torch.equal(weights["conv1.weight"], state["conv1.weight"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(NoWeights, match="its SHA-256 differs; delete it"):
        pretrained("resnet18", url=source)


def test_a_failed_download_names_the_file_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:1/models/resnet18-f37072fd.pth"

    with pytest.raises(NoWeights, match="cannot be fetched") as raised:
        fetch("resnet18", url=url)

    assert f"download {url} and put it into {tmp_path / 'hub' / 'checkpoints'}" in str(raised.value)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_weights_of_another_network_are_refused(state: dict[str, Any]) -> None:
    with pytest.raises(NoWeights, match="the weights are not those of resnet50"):
        build(ModelConfig(backbone="resnet50"), image_size=32, classes=3, weights=state)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"head": "flatten"}, "ends in one vector"),
        ({"input_channels": 1}, "'resnet18' was pretrained on red, green and blue; take input_channels = 3"),
        ({"backbone": "vgg16_bn"}, "halves the side five times, so it needs 32 pixels, but has 24"),
        ({"backbone": "vgg16_bn", "backbone_side": 16}, "but has 16; raise backbone_side"),
    ],
)
def test_a_configuration_that_no_backbone_supports_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Impossible, match=complaint):
        plan(ModelConfig(**{"backbone": "resnet18"} | changes), image_size=24, classes=3)


def test_muon_is_refused_for_pretrained_filters(state: dict[str, Any]) -> None:
    with pytest.raises(Impossible, match="undoes pretrained ones"):
        start_training(TrainConfig(optimizer="muon"), state)


def test_a_download_that_is_cut_short_leaves_nothing_behind(source: str, tmp_path: Path) -> None:
    path = Path(source.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(NoWeights, match="cannot be fetched"):
        fetch("resnet18", url=source)

    assert not list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())


def test_a_batch_of_a_single_image_is_refused() -> None:
    with pytest.raises(Impossible, match="need more than one image"):
        check_batch_size(FROZEN_2, 1, image_size=32, classes=3)


def test_a_trial_is_trained_on_pretrained_weights(
    harness: Harness, source: str, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", source)
    worker_config = harness.create(
        budget={"trials": 1, "epochs": 1},
        space={"backbone": "resnet18", "tuned_stages": 0, "batch_size": 32, "learning_rate": 0.01},
    )

    row = work(runner.open_training_context(worker_config))

    assert row.state == "COMPLETE"
    assert row.parameters == 11_176_512 + (512 + 1) * 4
    stored = harness.trained()["model"]
    assert torch.equal(stored["stages.0.0.weight"], state["conv1.weight"])
    assert torch.equal(stored["stages.4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])


def test_enlarged_images_are_evaluated_in_smaller_batches(
    harness: Harness, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", source)
    worker_config = harness.create(
        budget={"trials": 1, "epochs": 1},
        space={"backbone": "resnet18", "backbone_side": 128, "batch_size": 32, "learning_rate": 0.01},
    )
    context = runner.open_training_context(worker_config)
    claim = claims.claim(context.storage, context.study.id, this_process(worker_config.token))
    assert claim is not None
    trial, values = recorder.draw(context, claim, recorder.open_trial(context, claim))
    run = TrialTraining(
        context=context,
        claim=claim,
        trial=trial,
        values=values,
        seed=0,
        step_epochs=Fraction(1),
        on_batch=lambda: None,
    )

    assert [len(labels) for _, labels in run.evaluation_batches(context.data.validation)] == [31, 31, 18]


def test_a_study_whose_weights_cannot_be_fetched_is_not_started(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:1/resnet18-f37072fd.pth")

    answer = harness.run("run", harness.write(budget={"trials": 1}, space={"backbone": ["none", "resnet18"]}))

    assert answer.code == 65
    assert "put it into" in answer.err


def test_a_space_without_backbones_keeps_its_drawing_order() -> None:
    from search.spec import study_spec
    from search.spec.search_space import order

    before = study_spec.build(
        {"space": {"conv_layers": [2, 3], "batch_size": [8, 16]}, "budget": {"trials": 1, "epochs": 1}}
    )
    keys = [key for key in order(before.space) if key in ("conv_layers", "batch_size")]

    assert keys == ["conv_layers", "batch_size"]
