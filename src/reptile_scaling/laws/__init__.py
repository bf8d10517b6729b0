"""Laws of any table (x, loss, seed): fit, uncertainty, verdict, extrapolation. No torch, no other room's types."""

from reptile_scaling.laws.law import N_BOOTSTRAP, Law, fit_law
from reptile_scaling.laws.prediction import Prediction, TasksNeeded
from reptile_scaling.laws.sentence import verdict_sentence
from reptile_scaling.laws.table import TRANSFORMS, LossTable, Transform, table_from_frame
from reptile_scaling.laws.verdict import Verdict

__all__ = [
    "N_BOOTSTRAP", "TRANSFORMS", "Law", "LossTable", "Prediction", "TasksNeeded", "Transform", "Verdict",
    "fit_law", "table_from_frame", "verdict_sentence",
]
