"""The algebra: processes, parameterizations, denoisers, spaces and methods. Pure tensors: no files, no registry."""
