"""Evaluation that tells the truth: verdicts per sample, intervals, records."""

from fsrobust.evaluate.diagnose import Diagnosis as Diagnosis
from fsrobust.evaluate.diagnose import Sign as Sign
from fsrobust.evaluate.diagnose import diagnose as diagnose
from fsrobust.evaluate.engine import evaluate as evaluate
from fsrobust.evaluate.outcome import Outcome as Outcome
from fsrobust.evaluate.stats import Interval as Interval
from fsrobust.evaluate.stats import wilson as wilson
from fsrobust.evaluate.store import Study as Study
from fsrobust.evaluate.store import Subject as Subject
from fsrobust.evaluate.store import read_outcome as read_outcome
from fsrobust.evaluate.store import read_records as read_records
from fsrobust.evaluate.study import carry_out as carry_out
