"""The verbs of exported models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data.errors import DataError
from search import tables
from search.cli import completion, options, param_types
from search.cli.results import EXPORTS
from search.console import echo
from search.tables import Table

if TYPE_CHECKING:
    from models.config import TestTimeAugmentation


@options.verb(
    "export",
    options.stored_study(),
    click.option(
        "--trial",
        type=int,
        metavar="N",
        shell_complete=completion.trials,
        help="Number of the trial (default: the trial delivered by the verdict, or by the search).",
    ),
    click.option("--to", type=param_types.PATH, metavar="DIR", help="Folder to write (default: exports/STUDY)."),
    options.tta("Let the model average its predictions over mirrored, or mirrored and shifted images (default: none)."),
    options.data("Images of the study, if they have moved."),
    options.json(),
    options.storage(),
    options.cache(),
    example="convsearch export cifar10 --to cats",
)
def export(
    study: str,
    *,
    trial: int | None,
    to: Path | None,
    augmentation: "TestTimeAugmentation | None",
    data: str | None,
    as_json: bool,
    storage: str,
    cache: Path,
) -> int:
    """Write the best model into a folder."""
    from search.analysis.averaged import copies, cost
    from search.artifacts.study_dir import checked_name
    from search.export import export as exports
    from search.export.page import quality_lines

    folder = to or EXPORTS / checked_name(study)
    card, difference = exports.export(
        storage,
        cache,
        study,
        trial=trial,
        folder=folder,
        say=echo,
        images=data,
        augmentation=augmentation or "none",
    )
    agreement = (
        f"On real images model.onnx agrees with PyTorch in every class; its probabilities differ by {difference:.0e}."
    )
    kind = card.test_time_augmentation
    averaging = () if kind == "none" else (("averages", f"over {copies(kind)}, {cost(kind)}"),)
    table = Table(
        columns=("", ""),
        rows=(
            ("folder", str(folder)),
            ("trial", f"{card.provenance['trial']} of {card.provenance['study']}"),
            *averaging,
        ),
        after=("", *quality_lines(card), agreement),
    )
    answer = {"folder": str(folder), "card": card.model_dump(mode="json", by_alias=True), "apart": difference}
    return tables.print_answer(answer, table, as_json=as_json)


@options.verb(
    "predict",
    click.argument("model", type=param_types.PATH, metavar="MODEL"),
    click.argument("images", type=param_types.PATH, nargs=-1, required=True, metavar="IMAGES..."),
    click.option(
        "--top",
        type=param_types.COUNT,
        default=1,
        metavar="K",
        help="Number of most likely classes to print (default: 1).",
    ),
    options.tta("Average over mirrored, or mirrored and shifted images (default: as the model was exported)."),
    options.json(),
    example="convsearch predict exports/cifar10 photo.jpg",
)
def predict(
    model: Path, images: Sequence[Path], *, top: int, augmentation: "TestTimeAugmentation | None", as_json: bool
) -> int:
    """Classify images.

    MODEL is a folder written by `export`. IMAGES are image files or folders of them.
    """
    options.check_working_directory()
    from search.export import predict as predictions

    package = predictions.load(model, augmentation)
    results = tuple(predictions.predict(package, predictions.files(images, echo)))
    errors = [result.error for result in results if result.error is not None]
    for error in errors:
        echo(f"convsearch: {error}")
    tables.print_answer(
        predictions.predictions_json(model, package, results),
        predictions.predictions_table(results, top=top),
        as_json=as_json,
    )
    return DataError.exit_code if errors else 0
