"""Checkpoints on disk: configuration, tensors, dense weights on a device, and where experts lie."""

from moeflux.checkpoint.checkpoint import Checkpoint as Checkpoint
from moeflux.checkpoint.config import CheckpointConfig as CheckpointConfig
from moeflux.checkpoint.config import GenerationConfig as GenerationConfig
from moeflux.checkpoint.config_reader import ConfigReader as ConfigReader
from moeflux.checkpoint.config_reader import RopeParameters as RopeParameters
from moeflux.checkpoint.dense import DenseWeights as DenseWeights
from moeflux.checkpoint.experts import ExpertRange as ExpertRange
from moeflux.checkpoint.experts import ExpertShape as ExpertShape
from moeflux.checkpoint.experts import LayerExperts as LayerExperts
from moeflux.checkpoint.safetensors import TensorEntry as TensorEntry
