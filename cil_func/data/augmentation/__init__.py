"""Random changes of training images: policies, and the image operations that they are made of."""
