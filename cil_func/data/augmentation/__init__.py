"""Random changes of training images.

augment.py       all random changes of a batch, in order: `Augment` draws them and applies them
randaugment.py   timm's RandAugment: its policy string, and the draws that follow from it
operations.py    applies RandAugment's operations to a batch, each image with its own
kernels.py       the operations that change the values of pixels
geometry.py      the operations that move or cover pixels
rectangles.py    the rectangles of random erasing
uploads.py       copies from the host to a GPU, for which neither waits
"""
