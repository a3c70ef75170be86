"""JSON and plain numbers over MQTT 3.1.1 and 5.

Which brokers in `broker`, a connection in `link`, payloads in `payload`; `client` puts these together to a source, and
`listen` hears what a broker carries.
"""
