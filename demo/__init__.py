"""A Hub-compatible server and tiny real models, to run all of it without account, GPU or internet."""
