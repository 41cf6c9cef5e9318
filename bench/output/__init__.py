"""How results are shown: tables, plots, comparisons of runs."""
