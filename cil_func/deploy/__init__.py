"""What is done with a finished run: predict with it, export it. README.md beside this file shows the commands.

predictor.py    the finished model of a run, as an object that is called with images; `cil_func.load`
finished.py     refuses what is no finished run
inputs.py       files, Pillow images and arrays -> pixels, prepared as in training
predict.py      the command predict
calibration.py  the temperature, and which images are of no known class
calibrate.py    the command calibrate
export.py       the command export: files that work without this package
portable.py     the model as a torch.nn.Module, which torch's exporters take
model_card.py   describes a model to strangers
compare.py      the command compare: what got better and worse between two models; see compare.md
comparison.py   two models' answers to the same images, class by class
compare_text.py, compare_page.py  the comparison as text and as an HTML page
labelled.py     the test images of a run or a folder, with the names of their classes
edit.py         the command edit: a model without some classes, or with new names of them; see compare.md
edit_plan.py    what an edit does, checked
edit_history.py  the edits that a model has gone through
listing.py      which files the paths of a command line mean
answering.py    runs a command, each failure as one line and an exit status
"""
