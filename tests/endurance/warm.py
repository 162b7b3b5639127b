"""What the fork server imports once: every module that a job needs, and the networks that jobs share."""

import matplotlib.pyplot  # noqa: F401 - a table's figures
import sklearn.datasets  # noqa: F401 - the digits

import fsrobust.report.html  # noqa: F401
from tests.endurance import jobs
from tests.runs import digits, learnt

for fsr in (None, "paper"):
    learnt(fsr)
digits(80)
assert jobs.JOBS
