"""Tables of the database: the columns of Optuna's tables that are read and written here, and the table of leases.

They do not load Optuna, which creates its own tables (optuna/storages/_rdb/models.py); a test compares both.
"""

import sqlalchemy as sa

#: Optuna's tables. Optuna and its migrations create them.
_OPTUNA = sa.MetaData()

_STATE = sa.Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")
_DIRECTION = sa.Enum("NOT_SET", "MINIMIZE", "MAXIMIZE", name="studydirection")
_VALUE_TYPE = sa.Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")
_INTERMEDIATE_VALUE_TYPE = sa.Enum("FINITE", "INF_POS", "INF_NEG", "NAN", name="trialintermediatevaluetype")


def _attributes(name: str, of: str) -> sa.Table:
    """A table of attributes: a JSON text for each key of a study or a trial, whose id is in the column `of`."""
    return sa.Table(
        name, _OPTUNA, sa.Column(of, sa.Integer), sa.Column("key", sa.String(512)), sa.Column("value_json", sa.Text)
    )


STUDIES = sa.Table("studies", _OPTUNA, sa.Column("study_id", sa.Integer), sa.Column("study_name", sa.String(512)))

DIRECTIONS = sa.Table(
    "study_directions",
    _OPTUNA,
    sa.Column("study_id", sa.Integer),
    sa.Column("objective", sa.Integer),
    sa.Column("direction", _DIRECTION),
)

STUDY_ATTRS = _attributes("study_user_attributes", "study_id")

STUDY_SYSTEM_ATTRS = _attributes("study_system_attributes", "study_id")

TRIALS = sa.Table(
    "trials",
    _OPTUNA,
    sa.Column("trial_id", sa.Integer),
    sa.Column("study_id", sa.Integer),
    sa.Column("number", sa.Integer),
    sa.Column("state", _STATE),
    sa.Column("datetime_start", sa.DateTime),
    sa.Column("datetime_complete", sa.DateTime),
)

TRIAL_ATTRS = _attributes("trial_user_attributes", "trial_id")

TRIAL_SYSTEM_ATTRS = _attributes("trial_system_attributes", "trial_id")

TRIAL_PARAMS = sa.Table(
    "trial_params",
    _OPTUNA,
    sa.Column("param_id", sa.Integer),
    sa.Column("trial_id", sa.Integer),
    sa.Column("param_name", sa.String(512)),
    sa.Column("param_value", sa.Float(precision=53)),
    sa.Column("distribution_json", sa.Text),
)

TRIAL_VALUES = sa.Table(
    "trial_values",
    _OPTUNA,
    sa.Column("trial_id", sa.Integer),
    sa.Column("objective", sa.Integer),
    sa.Column("value", sa.Float(precision=53)),
    sa.Column("value_type", _VALUE_TYPE),
)

CURVES = sa.Table(
    "trial_intermediate_values",
    _OPTUNA,
    sa.Column("trial_id", sa.Integer),
    sa.Column("step", sa.Integer),
    sa.Column("intermediate_value", sa.Float(precision=53)),
    sa.Column("intermediate_value_type", _INTERMEDIATE_VALUE_TYPE),
)

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
