"""Data sets as uint8 tensors: bundled, official, or your own."""

from fsrobust.data.archives import extract as extract
from fsrobust.data.datasets import (
    DATASETS as DATASETS,
)
from fsrobust.data.datasets import (
    Dataset as Dataset,
)
