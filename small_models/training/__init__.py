"""Training and evaluation of the small models: synthetic datasets, captions, classifiers, networks and the training loop."""
