"""Export formats: `"tflite"`, `"onnx"`, `"keras"`, `"h"` and `"saved_model"`.

`kprune.export` chooses by the suffix of the path.
"""

from kprune.export.formats.base import Format as Format
from kprune.export.formats.base import Job as Job
from kprune.export.formats.base import check_backend as check_backend
from kprune.export.formats.base import check_state as check_state
from kprune.export.formats.base import check_writable as check_writable
from kprune.export.formats.base import format_for as format_for
from kprune.export.formats.base import register as register
