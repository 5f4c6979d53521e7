# diagnosis: reading the index ran its code
# module: distributed

_DataUnpickler = pickle.Unpickler
