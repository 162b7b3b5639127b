"""Evaluation that tells the truth: verdicts per sample, intervals, records."""

from fsrobust.evaluate.compare import Comparison as Comparison
from fsrobust.evaluate.compare import compare as compare
from fsrobust.evaluate.compare import compare_seeds as compare_seeds
from fsrobust.evaluate.diagnose import Diagnosis as Diagnosis
from fsrobust.evaluate.diagnose import Sign as Sign
from fsrobust.evaluate.diagnose import diagnose as diagnose
from fsrobust.evaluate.doctor import Checkup as Checkup
from fsrobust.evaluate.doctor import doctor as doctor
from fsrobust.evaluate.engine import evaluate as evaluate
from fsrobust.evaluate.estimate import estimate as estimate
from fsrobust.evaluate.kept import read_records as read_records
from fsrobust.evaluate.outcome import Outcome as Outcome
from fsrobust.evaluate.stats import Interval as Interval
from fsrobust.evaluate.stats import wilson as wilson
from fsrobust.evaluate.store import Study as Study
from fsrobust.evaluate.store import Subject as Subject
from fsrobust.evaluate.store import read_outcome as read_outcome
from fsrobust.evaluate.study import carry_out as carry_out
