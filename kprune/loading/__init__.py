"""Loading of model files, whichever version of Keras wrote them."""

from kprune.loading.api import load as load
