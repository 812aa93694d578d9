"""What `benchmarks.reliability` and the tests use to disturb runs, damage files and make bad input.

real_runs.py            starts a small run as real processes, and compares two runs
disturbances.py         kills, stops and spoils such runs
train_with_fault.py     train.py with one fault at a chosen place
damage.py               damages the files of checkpoints
failing_saves.py        lets a save fail at each of its calls
faulty_disk.py          the disk that fails
bad_configurations.py   wrong configurations, made from the schema
bad_folders.py          folders of images with something wrong
bad_images.py           files that are named like images and can't be read
"""
