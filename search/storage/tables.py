"""Tables of the database: Optuna's tables and the table of leases."""

import sqlalchemy as sa
from optuna.trial import TrialState

from search.optuna_internals import models

STUDIES: sa.Table = models.StudyModel.__table__


STUDY_ATTRS: sa.Table = models.StudyUserAttributeModel.__table__


STUDY_SYSTEM_ATTRS: sa.Table = models.StudySystemAttributeModel.__table__


TRIALS: sa.Table = models.TrialModel.__table__


TRIAL_ATTRS: sa.Table = models.TrialUserAttributeModel.__table__


TRIAL_SYSTEM_ATTRS: sa.Table = models.TrialSystemAttributeModel.__table__


TRIAL_PARAMS: sa.Table = models.TrialParamModel.__table__


TRIAL_VALUES: sa.Table = models.TrialValueModel.__table__


CURVES: sa.Table = models.TrialIntermediateValueModel.__table__


#: System attribute of a finished trial: the token of the process that finished it; a repeated tell checks it.
FINISHED_BY = "convsearch:teller"


#: Leases: a row exists only while the trial is RUNNING under an owner.
LEASES = sa.Table(
    "convsearch_leases",
    sa.MetaData(),
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("token", sa.String(64), nullable=False, index=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("boot", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("renewals", sa.Integer, nullable=False),
)


#: Selects and locks the token that holds a running trial; no row if the trial is not held.
LEASE_HOLDER = (
    sa.select(LEASES.c.token)
    .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
    .where(LEASES.c.trial_id == sa.bindparam("held_id"), TRIALS.c.state == TrialState.RUNNING)
    .with_for_update(of=LEASES)
)
