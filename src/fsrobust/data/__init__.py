"""Data sets as uint8 tensors: bundled, official, or your own."""

from fsrobust.data.catalog import DATASETS as DATASETS
from fsrobust.data.catalog import DatasetSpec as DatasetSpec
from fsrobust.data.datasets import Dataset as Dataset
from fsrobust.data.datasets import draw as draw
from fsrobust.data.datasets import hold_out as hold_out
from fsrobust.data.datasets import load_dataset as load_dataset
from fsrobust.data.download import fetch as fetch
from fsrobust.data.portion import Portion as Portion
from fsrobust.data.portion import portion as portion
from fsrobust.data.sources import Source as Source
from fsrobust.data.sources import open_dataset as open_dataset
from fsrobust.data.streamed import Streamed as Streamed
