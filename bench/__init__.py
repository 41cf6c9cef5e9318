"""umem.bench: cases, the harness that runs them in turns with their peers, bars and the verdict.

harness/   what a case, a point of its sweep and a side are; workers that sleep until they are commanded; sides in
           paired blocks; statistics; rows; what this machine does without umem, in C
cases/     what is measured, and the registry of it; runs in the driver and is light
parts/     what runs inside the ranks
peers/     what umem is measured against
output/    tables, plots, comparisons of runs
verdict/   one memory, or stacked servers
bars       ratios that must hold, from bars.toml
tune       thresholds of teams, measured and kept
prepare    what is compiled before any clock starts
command    `umem bench`
"""
