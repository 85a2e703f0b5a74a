"""What things cost in a runtime, in multiply-adds of a large dense product that take as long (float32).

Read off onnxruntime on 2 cores: ``kronfx/decisions/price.md``.
"""

ENTRY = 20.0  # an entry of an activation that is read and written once
WEIGHT = 12.0  # a weight that is read once
NODE = 2e5  # any node
TRANSPOSED = 30.0  # an entry of an activation that changes its layout
SMALL = 1.3  # a multiply-add in small products, of large ones
