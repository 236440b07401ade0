"""A network for digits loses 60 % of its MACs and becomes an int8 TFLite file."""

import keras

import kprune
from kprune import data
from kprune.callbacks import PruneCallback
from kprune.report.demo import build_model

(x_train, y_train), _, (x_test, y_test) = data.load_digits()
train = data.batches(x_train, y_train, shuffle=True)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

model = build_model()  # any functional or Sequential Keras model
model.compile("adam", loss, metrics=["accuracy"])
model.fit(train, epochs=15, verbose=2, shuffle=False)

masked = kprune.wrap(model)
masked.compile("adam", loss, metrics=["accuracy"])
prune = PruneCallback(criterion="l1", reduce={"macs": 0.6})
masked.fit(train, epochs=15, verbose=2, shuffle=False, callbacks=[prune])

compact = kprune.rebuild(masked)
compact.evaluate(data.batches(x_test, y_test))
print(kprune.export(compact, "model.tflite", "int8", x_train[:256]))
