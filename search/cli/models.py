"""The verbs of exported models."""

from collections.abc import Sequence
from pathlib import Path

import click

from data.errors import DataError
from search import tables
from search.cli import completion, options
from search.console import echo
from search.tables import Table


@options.verb(
    "export",
    options.stored_study(),
    click.option(
        "--trial",
        type=int,
        metavar="N",
        shell_complete=completion.trials,
        help="number of the trial (default: what the verdict, else the search, delivers)",
    ),
    click.option("--to", type=options.PATH, metavar="DIR", help="folder (default: exports/STUDY)"),
    options.json(),
    options.storage(),
    options.cache(),
    example="convsearch export cifar10 --to cats",
)
def export(study: str, *, trial: int | None, to: Path | None, as_json: bool, storage: str, cache: Path) -> int:
    """Write the best model into a folder."""
    from search.artifacts.study_dir import checked_name
    from search.export import export as exports

    folder = to or Path("exports") / checked_name(study)
    card, apart = exports.export(storage, cache, study, trial=trial, folder=folder, say=echo)
    agreement = (
        f"On real images model.onnx agrees with PyTorch in every class; its probabilities differ by {apart:.0e}."
    )
    table = Table(
        columns=("", ""),
        rows=(("folder", str(folder)), ("trial", f"{card.provenance['trial']} of {card.provenance['study']}")),
        after=("", *exports.quality_lines(card), agreement),
    )
    answer = {"folder": str(folder), "card": card.model_dump(mode="json", by_alias=True), "apart": apart}
    return tables.print_answer(answer, table, as_json=as_json)


@options.verb(
    "predict",
    click.argument("model", type=options.PATH, metavar="MODEL"),
    click.argument("images", type=options.PATH, nargs=-1, required=True, metavar="IMAGES..."),
    click.option("--top", type=options.COUNT, default=1, metavar="K", help="the likeliest K classes (default: 1)"),
    options.json(),
    example="convsearch predict exports/cifar10 photo.jpg",
)
def predict(model: Path, images: Sequence[Path], *, top: int, as_json: bool) -> int:
    """Tell what images show.

    MODEL is a folder that `export` wrote, IMAGES are image files, or folders of them.
    """
    from search.export import predict as predictions

    package = predictions.load(model)
    found = tuple(predictions.predict(package, predictions.files(images)))
    errors = [each.error for each in found if each.error is not None]
    for error in errors:
        echo(f"convsearch: {error}")
    tables.print_answer(
        predictions.predictions_json(model, found), predictions.predictions_table(found, top=top), as_json=as_json
    )
    return DataError.exit_code if errors else 0
