"""The page a person reads: one self-contained HTML file that shows what an audit found."""

from elbowroom.report.page import render

__all__ = ["render"]
