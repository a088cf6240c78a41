"""The report of a pipeline run: self-contained pages made from artifacts alone.

:mod:`sicsrec.report.build` is the way in. A section (:mod:`sicsrec.report.parts`) is made of
words, plots, tables and items with covers; where a run lacks what a section shows, the section is
left out. The page holds no script and asks no server for anything. Beside it lies a page on which
one points at items (:mod:`sicsrec.report.explorer`), which holds Plotly.
"""
