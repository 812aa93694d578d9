"""Lets several processes share each batch, and finds out which one failed.

launch.py          what the launcher (torchrun) says about this process; its device and threads
joining.py         the processes find each other and form a process group
processes.py       what they compute together: sums, broadcasts, gathered rows; waiting for each other
hashing.py         a hash of a tree, to compare those of all processes
batch_split.py     which rows of a batch each process computes
activity.py        how far a process has come and what it is doing
failure_watch.py   a thread that finds a process that failed, is lost or hangs
shared_store.py    the key-value store of the launcher, in which the processes publish that
"""
