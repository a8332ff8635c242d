"""Reports: a record in, HTML, PNG, SVG and CSV out. Everything here reads; nothing decides.

words      numbers in words, never alone
theme      how charts look, on paper, light and dark
figures    charts from figures (Altair)
view       what a page says, as plain data
summary    what a demo's page says on top
render     the HTML file, and saving
"""

from headlab.report.render import chart, of_run, page, save

__all__ = ["chart", "of_run", "page", "save"]
