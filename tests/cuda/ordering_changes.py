"""Orderings that are taken out of PTX text, one at a time: run by ordering_steps.py, asked for by test_orderings.py."""

EVERY = None
SUBJECTS = ("lock", "MP", "SB", "flag", "fence", "count", "copy", "devices", "signals", "barrier")
SUBJECTS += ("scope gpu", "scope cta", "put thread", "put warp", "put block", "group barrier")
MEET = r"barrier\.cta\.red\.or\.pred\s+any, 0, mine;\s*selp\.s64 (%rd\d+), 1, 0, any;"
UNMET = r"selp.s64 \1, 1, 0, mine;"
WARP_UNMET = r"selp.s64 \2, 1, 0, mine;"
WARP_MEET = (
    r"vote\.sync\.any\.pred any, mine, (%r\d+);\s*bar\.warp\.sync \1;\s*selp\.s64 (%rd\d+), 1, 0, any;"
)
# What is changed: the subject, a pattern of its PTX, what takes its place, and which of its places (from 0).
CHANGES = {
    "lock: relaxed give-back": ("lock", r"st\.release", "st.relaxed", EVERY),
    "lock: relaxed swaps": ("lock", r"atom\.acq_rel(\.sys\.global\.cas)", r"atom.relaxed\1", EVERY),
    "lock: swaps that do not acquire": (
        "lock",
        r"atom\.acq_rel(\.sys\.global\.cas)",
        r"atom.release\1",
        EVERY,
    ),
    "lock: relaxed swap in the loop": ("lock", r"atom\.acq_rel(\.sys\.global\.cas)", r"atom.relaxed\1", -1),
    "MP: relaxed flag": ("MP", r"st\.release", "st.relaxed", -1),
    "MP: flag that is not acquired": ("MP", r"ld\.acquire", "ld.relaxed", -1),
    "SB: no fences": ("SB", r"fence\.sc\.sys;", "", EVERY),
    "SB: one fence": ("SB", r"fence\.sc\.sys;", "", 0),
    "SB: fences that are not sequentially consistent": ("SB", r"fence\.sc", "fence.acq_rel", EVERY),
    "flag: relaxed store": ("flag", r"st\.release", "st.relaxed", -1),
    "flag: relaxed loads": ("flag", r"ld\.acquire", "ld.relaxed", EVERY),
    "flag: released to the block only": ("flag", r"st\.release\.sys", "st.release.cta", EVERY),
    "flag: acquired from the block only": ("flag", r"ld\.acquire\.sys", "ld.acquire.cta", EVERY),
    "fence: none behind the flag": ("fence", r"fence\.acq_rel\.sys;", "", 0),
    "fence: none before the flag": ("fence", r"fence\.acq_rel\.sys;", "", -1),
    "count: relaxed addition": ("count", r"atom\.acq_rel(\.sys\.global\.add)", r"atom.relaxed\1", EVERY),
    "count: relaxed loads": ("count", r"ld\.acquire", "ld.relaxed", EVERY),
    "copy: no fence in copy_in": ("copy", r"fence\.acq_rel\.sys;", "", 0),
    "copy: no fence in copy_out": ("copy", r"fence\.acq_rel\.sys;(?=[^;]+ld\.global\.u64)", "", EVERY),
    "copy: fences for the block only": ("copy", r"fence\.acq_rel\.sys", "fence.acq_rel.cta", EVERY),
    "devices: released to one device": ("devices", r"st\.release\.sys", "st.release.gpu", EVERY),
    "signals: relaxed post": ("signals", r"atom\.acq_rel(\.sys\.global\.exch)", r"atom.relaxed\1", EVERY),
    "signals: waits that do not acquire": ("signals", r"ld\.acquire", "ld.relaxed", EVERY),
    "barrier: relaxed posts": ("barrier", r"atom\.acq_rel(\.sys\.global\.exch)", r"atom.relaxed\1", EVERY),
    "barrier: waits that do not acquire": ("barrier", r"ld\.acquire", "ld.relaxed", EVERY),
    "scope gpu: released to the block only": ("scope gpu", r"st\.release\.gpu", "st.release.cta", EVERY),
    "scope gpu: relaxed store": ("scope gpu", r"st\.release", "st.relaxed", EVERY),
    "scope gpu: relaxed loads": ("scope gpu", r"ld\.acquire", "ld.relaxed", EVERY),
    "scope cta: relaxed store": ("scope cta", r"st\.release", "st.relaxed", EVERY),
    "put thread: relaxed signals": ("put thread", r"st\.release", "st.relaxed", EVERY),
    "put thread: waits without a fence": ("put thread", r"fence\.acq_rel\.sys;", "", EVERY),
    "put warp: relaxed signals": ("put warp", r"st\.release", "st.relaxed", EVERY),
    "put warp: waits without a fence": ("put warp", r"fence\.acq_rel\.sys;", "", EVERY),
    "put warp: lanes that do not meet": ("put warp", WARP_MEET, WARP_UNMET, EVERY),
    "put block: relaxed signals": ("put block", r"st\.release", "st.relaxed", EVERY),
    "put block: waits without a fence": ("put block", r"fence\.acq_rel\.sys;", "", EVERY),
    "put block: lanes that do not meet": ("put block", MEET, UNMET, EVERY),
    "group barrier: relaxed flags": ("group barrier", r"st\.release", "st.relaxed", EVERY),
    "group barrier: no fence": ("group barrier", r"fence\.acq_rel\.sys;", "", EVERY),
    "group barrier: lanes that do not meet": ("group barrier", MEET, UNMET, EVERY),
}
