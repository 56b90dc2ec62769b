"""sanitized_run.py LIBRARY KERNEL: runs it on 64 floats, in a process that may be ended."""

import sys
from pathlib import Path

import numpy as np
from shader_library import Launch, ShaderLibrary

library = ShaderLibrary(Path(sys.argv[1]))
assert library.mode == "address"
x = np.arange(64, dtype=np.float32)
library.run(sys.argv[2], x, launch=Launch(threads=(64,), threadgroup_nbytes=(256,)))
