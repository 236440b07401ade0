"""A trained network loses 60 % of its MACs and becomes a TFLite file."""

import keras

import kprune
from kprune.callbacks import PruneCallback
from kprune.data import batches
from kprune.data import load_digits
from kprune.report.demo import build_model

(x_train, y_train), _, (x_test, y_test) = load_digits()
train, test = batches(x_train, y_train, shuffle=True), batches(x_test, y_test)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

model = build_model()
model.compile("adam", loss, metrics=["accuracy"])
model.fit(train, epochs=20, verbose=2, shuffle=False)

masked = kprune.wrap(model)
masked.compile("adam", loss, metrics=["accuracy"])
prune = PruneCallback(criterion="l1", reduce={"macs": 0.6})
masked.fit(train, epochs=20, verbose=2, shuffle=False, callbacks=[prune])
compact = kprune.rebuild(masked)

print(f"test accuracy {masked.evaluate(test, verbose=0)[1]:.3f}", kprune.cost(compact))
print(kprune.export(compact, "model.tflite", quantize="int8", calibration=x_train))
