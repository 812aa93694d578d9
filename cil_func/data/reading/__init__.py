"""Reads image files into uint8 arrays, and finds what is wrong or odd about a folder of images.

folders.py        a folder with train/ and test/ -> images, labels and class names
listing.py        which image files belong to which class
class_folders.py  the class folders themselves, and mistakes in their names
subsets.py        the classes that "ImageNet-100" means, or that a file lists
cub200.py         lists CUB-200-2011 as it is distributed
core50.py         lists CORe50 as it is distributed
walking.py        finds the images in one folder and counts the other files
decoding.py       reads many image files, on a few threads
image_file.py     reads one image file, or says why it can't be used
pixels.py         turns one opened image into upright RGB without transparency
sharing.py        one copy of a data set for all processes of a machine
file_table.py     the paths of images that stay in their files
loading.py        decodes such files in worker processes
packed.py         decoded images in one file, which is mapped into memory, and its index
packing.py        makes such a file, once for all runs, and checks it
locking.py        lets one process at a time pack or download
checking.py       finds before a run which of such files can't be used
odd_images.py     what is said of images that are turned, transparent or dark
variation.py      warns if the images of a class are all alike
"""
