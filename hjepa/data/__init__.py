"Images: read, cut, named, seen by training and evaluation, and kept in shards."
from . import shards  # registers itself as a data set
