"What can be set: the keys of a model and of a run, as dataclasses."
