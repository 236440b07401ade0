"""A network for digits loses 60 % of its MACs and becomes an int8 TFLite file."""

import kprune
from kprune.callbacks import PruneCallback
from kprune.data import batches, load_digits
from kprune.report.demo import build_model

(x_train, y_train), _, (x_test, y_test) = load_digits()
train, test = batches(x_train, y_train, shuffle=True), batches(x_test, y_test)

model = build_model()  # any functional or Sequential Keras model
model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
model.fit(train, epochs=15, shuffle=False)

masked = kprune.wrap(model)
masked.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
prune = PruneCallback(criterion="l1", reduce={"macs": 0.6})
masked.fit(train, epochs=15, shuffle=False, callbacks=[prune])

compact = kprune.rebuild(masked)
compact.evaluate(test)
kprune.export(compact, "model.onnx")
print(kprune.export(compact, "model.tflite", "int8", calibration=x_train[:256]))
