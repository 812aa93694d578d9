"""Loads images, cuts them into phases, and makes batches. Nothing here sees the configuration.

sources.py       loads a data set by its name
cifar100.py      reads or downloads CIFAR-100
digits.py        reads scikit-learn's digits
own.py           checks a data set that a user's own function returns
reading/         image files and folders -> uint8 arrays
images.py        the images of a data set by row number, wherever they are stored
streamed.py      images that stay in their files until they are needed
scenario.py      the order of the classes, and the row numbers of each phase
validation.py    training images that are kept for validation; the first phases alone
batch.py         a batch, a chunk of several, and exemplars beside a batch, as records
batches.py       shuffled, augmented batches of an epoch, several at a time
replays.py       exemplars that are drawn anew beside each batch
augmentation/    random changes of training images

Images are uint8 (N, H, W, 3), but for the planes (N, 3, H, W) inside augmentation/. A row is the index of one image.
"""
