"""Files of models: what wrote them, and how Keras 3 opens them."""

from kprune.loading.api import load as load
