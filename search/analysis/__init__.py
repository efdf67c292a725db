"""Figures and texts about stored trials: intervals, comparisons, charts, reports."""
