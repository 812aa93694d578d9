"""Images in, chunks of batches out. This memory sees no configuration: every function takes plain arguments.

    sources.py    a name -> `Dataset`: train and test images as uint8, original class indices, class names
    folder.py     folders of image files -> arrays, with the mistakes people make in them named
    listing.py    which images belong to which class;  walking.py  one folder, looked through
    images.py     one file -> RGB, or the reason why not;  decoding.py  many of them, on a few threads
    variation.py  whether the images of a class differ at all
    scenario.py   class order, and the phases as row numbers, cut as continuum's ClassIncremental does
    resident.py   the whole set in memory, of the device where it fits: chunks are gathers of rows
    augment.py    random transforms of a batch: draws apart from their application
    randaugment.py  timm's policy string -> draws;  operations.py  images sorted by operation, each family once
    image_ops.py  image_geometry.py   what the operations do, exactly as Pillow does it

Images are uint8 (N, H, W, 3) everywhere in this memory; a row is an index into them.
"""
