"""The files of one trial: its log, its checkpoints here and in the remote store, its misclassified images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.parts import Split
from models.evaluate import Evaluation
from search.artifacts import checkpoint, misclassified, study_dir
from search.artifacts.remote_store import RemoteStoreError
from search.trial.context import TrialContext


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """The files of one trial."""

    context: TrialContext
    number: int
    """Number of the trial."""

    @property
    def folder(self) -> Path:
        """The folder of the trial."""
        return self.context.dirs.trial(self.context.study.name, self.number)

    def log(self, text: str) -> None:
        """Append a line to the log of the trial."""
        study_dir.append_log(self.context.dirs.log(self.context.study.name, self.number), text)

    def save_checkpoint(
        self, state: dict[str, Any], *, step: int, batch: int, seconds: float, curve: dict[int, float]
    ) -> None:
        """Write a checkpoint, and upload it if the study has a remote store; a failed upload is only logged.

        Args:
            state: State of the training (`models.training_state.TrainingState`).
            step: Reported steps done.
            batch: Batches done.
            seconds: Seconds of training and evaluation, over all attempts.
            curve: Value of each step done.

        Raises:
            DiskError: The folder cannot be written.
        """
        header = checkpoint.Header(
            study=self.context.study.uid,
            trial=self.number,
            step=step,
            batch=batch,
            seconds=seconds,
            curve=tuple(curve.items()),
        )
        checkpoint.save(self.folder, header, state)
        if self.context.remote is None:
            return
        try:
            self.context.remote.upload(self.folder, self.number)
        except RemoteStoreError as error:
            self.log(f"this checkpoint is on this machine only: {error}")

    def load_checkpoint(self) -> tuple[checkpoint.Header, dict[str, Any]] | None:
        """Load the newest complete checkpoint, from the remote store if it has a newer one than this machine.

        Returns:
            The header and the state of the training; None if there is no complete checkpoint.

        Raises:
            DiskError: The folder cannot be read.
        """
        if self.context.remote is not None:
            try:
                self.context.remote.download(self.folder, self.number)
            except RemoteStoreError as error:
                self.log(f"the checkpoints of other machines cannot be reached: {error}")
        return checkpoint.latest(self.folder, study=self.context.study.uid, trial=self.number, say=self.log)

    def save_misclassified(self, result: Evaluation, split: Split, classes: tuple[str, ...]) -> None:
        """Save the misclassified images with the highest confidence, for the dashboard.

        Args:
            result: The evaluation of `split`.
            split: The images.
            classes: Names of the classes.
        """
        labels = split.labels[split.indices].cpu()
        wrong = torch.where(result.predicted == labels, -1.0, result.confidence)
        worst = [index for index in wrong.argsort(descending=True)[: misclassified.SHOWN].tolist() if wrong[index] >= 0]
        misclassified.save(
            self.folder,
            images=split.images[split.indices[worst].to(split.images.device)].cpu().numpy(),
            captions=[
                (classes[labels[index]], classes[result.predicted[index]], float(result.confidence[index]))
                for index in worst
            ],
            confusion=result.confusion.tolist(),
            classes=classes,
            study=self.context.study.uid,
        )
