"""Sensors -> store: what the park's meters send, over OPC UA, MQTT and Sparkplug, each reading once.

    register    the meters that are collected: their place in a batch, their unit, their source
    opcua/      one client a server, with its own register of tags and its own publishing
    mqtt/       one client a broker, acknowledging what is durable
    sparkplug/  one client a broker, the host application of all its edge nodes
    batches     readings wait here in bounded memory until the store has them
    coverage    which times a source did not cover: the rows of `gap`
    rejections  what came and is no reading, counted by reason
    dead_letters  the same, kept in the store and replayed after a fix
    status      one row a source: state, lag, counts
    backoff     how long to wait for what is away
    agent       puts these together; the main path enters at `agent.collect`

Whether a stored reading is used is decided in `processing`; how it is stored, in `park.store`.
"""
