"""Feature Separation and Recalibration as a plug-in for any convolutional network."""

from fsrobust.plugin.attach import Guarded as Guarded
from fsrobust.plugin.attach import Parts as Parts
from fsrobust.plugin.attach import attach as attach
from fsrobust.plugin.attach import parts_of as parts_of
from fsrobust.plugin.authors import load_authors as load_authors
from fsrobust.plugin.create import build as build
from fsrobust.plugin.create import config_of as config_of
from fsrobust.plugin.create import create_model as create_model
from fsrobust.plugin.loss import most_likely_wrong as most_likely_wrong
from fsrobust.plugin.loss import recalibration_loss as recalibration_loss
from fsrobust.plugin.loss import separation_loss as separation_loss
from fsrobust.plugin.mask import soft_mask as soft_mask
from fsrobust.plugin.module import FSR as FSR
from fsrobust.plugin.module import insertion_points as insertion_points
from fsrobust.plugin.surrogates import surrogates as surrogates
