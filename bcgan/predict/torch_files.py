"""Names of the files that `bcgan.predict.wsinfer` and its process with PyTorch, `torch_module`, exchange."""

NETWORK = "network.keras"
FEATURES = "reference_features.keras"  # the reference CNN without its head
MATRICES = "matrices.npz"  # of resizing layers, by `<old side>-<new side>-<interpolation>`
QUALITY_FILTER = "quality_filter.npz"
PARAMETERS = "parameters.json"  # of the card
PATCHES = "patches.npy"
RESULTS = "results.npz"  # by the written file: probabilities of the patches, and seconds for a patch
TORCHSCRIPT = "torchscript_model.pt"  # by WSInfer's name, and so is
CONFIG = "config.json"
INSTALL = 'pip install "bcgan[wsinfer]", or in a clone pip install -r requirements-wsinfer.txt'
