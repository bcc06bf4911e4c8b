"""The maths of dictionaries. Pure torch: no files, no language model, no logging."""
