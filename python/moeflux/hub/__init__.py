"""Models by name: folders, the hub and its local copies, what was pulled. Loads no weights."""

from moeflux.hub.download import WrongBytesError as WrongBytesError
from moeflux.hub.pull import Pulled as Pulled
from moeflux.hub.pull import PullOptions as PullOptions
from moeflux.hub.pull import PullProgress as PullProgress
from moeflux.hub.pull import pull as pull
from moeflux.hub.repository import PullError as PullError
from moeflux.hub.resolve import DEMO as DEMO
from moeflux.hub.resolve import resolve as resolve
from moeflux.hub.shelf import Removal as Removal
from moeflux.hub.shelf import RemovalError as RemovalError
from moeflux.hub.shelf import StoredModel as StoredModel
from moeflux.hub.shelf import find_removal as find_removal
from moeflux.hub.shelf import stored_models as stored_models
