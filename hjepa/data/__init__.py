"Images: read, cut, named, seen by training and evaluation, and kept in shards."
from . import streaming  # registers shards as a data set
