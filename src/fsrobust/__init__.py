"""Train robust image classifiers, prove how robust they are, and reproduce the published numbers.

The plug-in is Feature Separation and Recalibration (Kim et al., CVPR 2023).
"""

from fsrobust.attacks import ATTACKS as ATTACKS
from fsrobust.attacks import L2 as L2
from fsrobust.attacks import Linf as Linf
from fsrobust.attacks import perturb as perturb
from fsrobust.data import DATASETS as DATASETS
from fsrobust.data import Dataset as Dataset
from fsrobust.data import load_dataset as load_dataset
from fsrobust.evaluate import Diagnosis as Diagnosis
from fsrobust.evaluate import Outcome as Outcome
from fsrobust.evaluate import compare as compare
from fsrobust.evaluate import diagnose as diagnose
from fsrobust.evaluate import doctor as doctor
from fsrobust.evaluate import estimate as estimate
from fsrobust.evaluate import evaluate as evaluate
from fsrobust.models import MODELS as MODELS
from fsrobust.plugin import attach as attach
from fsrobust.plugin import create_model as create_model
from fsrobust.plugin import load_authors as load_authors
from fsrobust.records import package_version
from fsrobust.report import report as report
from fsrobust.train import AT as AT
from fsrobust.train import AWP as AWP
from fsrobust.train import MART as MART
from fsrobust.train import TRADES as TRADES
from fsrobust.train import FastAT as FastAT
from fsrobust.train import FSRWeights as FSRWeights
from fsrobust.train import Natural as Natural
from fsrobust.train import TrainConfig as TrainConfig
from fsrobust.train import fit as fit
from fsrobust.train import load as load
from fsrobust.types import InputError as InputError

__version__ = package_version()
