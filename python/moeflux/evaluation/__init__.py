"""What a model is worth and how fast it is: speed, perplexity, divergence. Prints nothing."""

from moeflux.evaluation.comparison import Divergence as Divergence
from moeflux.evaluation.comparison import compare_checkpoints as compare_checkpoints
from moeflux.evaluation.comparison import divergence as divergence
from moeflux.evaluation.perplexity import Perplexity as Perplexity
from moeflux.evaluation.perplexity import perplexity as perplexity
from moeflux.evaluation.source import ModelSource as ModelSource
from moeflux.evaluation.source import NoRoomError as NoRoomError
from moeflux.evaluation.speed import Benchmark as Benchmark
from moeflux.evaluation.speed import PhaseSpeed as PhaseSpeed
from moeflux.evaluation.speed import SpeedWorkload as SpeedWorkload
from moeflux.evaluation.vocabulary import DifferentVocabularyError as DifferentVocabularyError
from moeflux.evaluation.windows import piece_nbytes as piece_nbytes
