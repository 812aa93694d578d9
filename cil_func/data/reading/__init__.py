"""Files on disk -> uint8 arrays, and what is wrong with a folder of images."""
