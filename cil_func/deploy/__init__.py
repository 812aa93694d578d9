"""What is done with a finished run: predict with it, export it. README.md beside this file shows the commands.

predictor.py    the finished model of a run, as an object that is called with images; `cil_func.load`
inputs.py       files, Pillow images and arrays -> pixels, prepared as in training
predict.py      the command predict
calibration.py  the temperature, and which images are of no known class
calibrate.py    the command calibrate
export.py       the command export: files that work without this package
portable.py     the model as a torch.nn.Module, which torch's exporters take
model_card.py   describes a model to strangers
listing.py      which files the paths of a command line mean
answering.py    runs a command, each failure as one line and an exit status
"""
