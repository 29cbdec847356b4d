"""Where an artefact runs, and the runner that goes along in a bundle."""
