"""What a park is, and where its data live: everything else builds on this, and it builds on nothing else here.

`park.model` says what a park consists of, `park.load` reads it from its files, `park.units` and `park.properties` turn
readings into physics, `park.store` keeps the data. Start at `park.load.load_park`.
"""
