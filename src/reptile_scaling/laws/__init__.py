"""Laws of any table (x, loss, seed): fit, uncertainty, verdict, extrapolation, plans. No torch, no other room."""

from reptile_scaling.laws.calibration import CalibrationError, calibration_error, calibration_errors
from reptile_scaling.laws.comparison import Comparison, compare_arms
from reptile_scaling.laws.excess import fit_floor_by_excess
from reptile_scaling.laws.law import N_BOOTSTRAP, Law, fit_law
from reptile_scaling.laws.next_cell import NextCell, next_cells
from reptile_scaling.laws.planning import Plan, plan_levels
from reptile_scaling.laws.prediction import Prediction, TasksNeeded
from reptile_scaling.laws.sentence import verdict_sentence
from reptile_scaling.laws.surface import Surface, fit_surface
from reptile_scaling.laws.surfaces import SURFACE_LAWS, SurfaceLaw, SurfaceTable
from reptile_scaling.laws.table import TRANSFORMS, LossTable, Transform, table_from_frame
from reptile_scaling.laws.verdict import Verdict

__all__ = [
    "N_BOOTSTRAP",
    "SURFACE_LAWS",
    "TRANSFORMS",
    "CalibrationError",
    "Comparison",
    "Law",
    "LossTable",
    "NextCell",
    "Plan",
    "Prediction",
    "Surface",
    "SurfaceLaw",
    "SurfaceTable",
    "TasksNeeded",
    "Transform",
    "Verdict",
    "calibration_error",
    "calibration_errors",
    "compare_arms",
    "fit_floor_by_excess",
    "fit_law",
    "fit_surface",
    "next_cells",
    "plan_levels",
    "table_from_frame",
    "verdict_sentence",
]
