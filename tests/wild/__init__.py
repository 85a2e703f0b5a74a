"""ONNX files of strangers, out of packages that anybody can download, and one table of what kronfx does to them."""
