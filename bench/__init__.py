"""umem.bench: cases, the harness that runs them in turns with their peers, bars and the verdict.

case       what a case, a point of its sweep and a side are
registry   the cases there are
prepare    what is compiled before anything is measured
wire       worker processes that sleep until the driver commands them
timing     sides run in paired blocks
stats      summaries, ratios, intervals, judgement
driver     one run: workers, cases, rows
bars       ratios that must hold, from bars.toml
rows, table, plot, compare, report   what comes out
verdict    one memory, or stacked servers
cases/     what is measured; runs in the driver and is light
parts/     what runs inside the ranks
peers/     what umem is measured against
limits     what this machine does without umem, in C
"""
