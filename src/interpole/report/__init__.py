"""Reports: one HTML page of a run, figures beside it, and the paper's figures from a run or a table.

    write_report("runs/x", "runs/x/report.html")
    plot("runs/x", "3", "figure3.pdf")

Nothing here needs a model or the network; statistics come from `metrics`, `stages` and `recommend`.
"""

from interpole.report.plots import FIGURES, hero, plot, write_figures
from interpole.report.runs import write_page_and_figures, write_report

__all__ = ["FIGURES", "hero", "plot", "write_figures", "write_page_and_figures", "write_report"]
