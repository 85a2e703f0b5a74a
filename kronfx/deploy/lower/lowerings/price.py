"""What things cost in a runtime, in multiply-adds of a large dense product that take as long (float32).

Read off onnxruntime on 2 cores: a dense product does 1e11 multiply-adds a second at 1024 rows; an entry that is
gathered, transposed or copied takes 0.2 ns, a weight that is read for one row only 0.12 ns, and every node 2 us.
"""

ENTRY = 20.0  # an entry of an activation that is read and written once
WEIGHT = 12.0  # a weight that is read once
NODE = 2e5  # any node
TRANSPOSED = 30.0  # an entry of an activation that changes its layout
SMALL = 1.3  # a multiply-add in small products, of large ones
