"""Export formats, one module each: a file that runs without this package, and how it is run.

A module of this package that has `FORMATS` (format's name -> `Format`) is a plug-in. It also has

    FILE                                             the file's name in the export's folder
    write(graph, path, variant, crops)               writes the file; `crops` are for calibration
    runner(path, threads) -> crops -> Reading        opens it in its own runtime

`formats.py` finds them, `graph.py` is the one function that all of them export, `card.py` the `model.json` beside each file.
"""
