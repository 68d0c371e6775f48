"""All that needs Lightning: the module, the data modules, callbacks, the run folder."""
