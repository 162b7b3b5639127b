"""Adversarial training that survives anything."""

from fsrobust.train.awp import AWP as AWP
from fsrobust.train.checkpoint import find_checkpoint as find_checkpoint
from fsrobust.train.config import History as History
from fsrobust.train.config import TrainConfig as TrainConfig
from fsrobust.train.config import TrainingError as TrainingError
from fsrobust.train.control import Reporter as Reporter
from fsrobust.train.fast import FastAT as FastAT
from fsrobust.train.loop import fit as fit
from fsrobust.train.objectives import AT as AT
from fsrobust.train.objectives import MART as MART
from fsrobust.train.objectives import TRADES as TRADES
from fsrobust.train.objectives import FSRWeights as FSRWeights
from fsrobust.train.objectives import Natural as Natural
from fsrobust.train.objectives import Objective as Objective
from fsrobust.train.trained import load as load
