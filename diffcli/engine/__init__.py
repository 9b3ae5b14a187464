"""Files, devices and loops: what turns parts into runs. Commands call it; the algebra knows nothing of it."""
