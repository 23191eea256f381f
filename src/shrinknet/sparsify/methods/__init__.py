"""The published methods that train and sparsify, one file each."""
